"""One training step of the teacher: supervised, with SD by the plain path, with SD by the shared path.

The plain path gives SAM's decoder a copy of the image side for every query point, as public code does; the
shared path makes the image side of the first two-way block once per image. Timed in turn in one run. On a CPU
the demo's network and the nano SAM 2 are used and the seconds are processor time of one thread; on a GPU the
paper's network and SAM 2.1 Hiera-L with random weights, whose time does not depend on them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from s4m_pipeline.apps.bench.timing import choose_device, device_name, show, time_in_turn
from s4m_pipeline.config.loading import load_config
from s4m_pipeline.core.paths import CONFIGS
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.sam import BatchedSam, ImageEmbeddings, build_sam, load_sam, tokens
from s4m_pipeline.sam.prompts import embed_prompts


class Setting(NamedTuple):
    """What is timed on a kind of device."""

    config: Path
    size_hw_px: tuple[int, int]
    batch: int
    points: int


SETTINGS = {
    "cpu": Setting(CONFIGS / "demo/demo.py", (128, 128), 8, 32),
    "cuda": Setting(CONFIGS / "cityscapes/cityscapes.py", (512, 1024), 4, 128),
}


def main() -> None:
    """Print seconds per step of each path, and ratios."""
    register_all()
    device = choose_device()
    setting = SETTINGS[device.type]
    network = load_sam("nano").network if device.type == "cpu" else build_sam("facebook/sam2.1-hiera-large")
    sam = BatchedSam(network, device=device)
    supervised, distilled = (_build_model(setting, sam, device, sd) for sd in (False, True))
    batch = _make_batch(setting)
    paths: dict[str, Callable[[], None]] = {
        "supervised": lambda: _step(supervised, batch),
        "+ SD, plain": lambda: _with_plain_tokens(lambda: _step(distilled, batch)),
        "+ SD, shared": lambda: _step(distilled, batch),
    }
    _print(time_in_turn(paths, device, rounds=3), setting, device)


def _build_model(setting: Setting, sam: BatchedSam, device: torch.device, sd: bool) -> torch.nn.Module:
    from mmdet.registry import MODELS

    from s4m_pipeline.models.distilled import DistilledMask2Former, MetaTeacher
    from s4m_pipeline.models.load import model_config

    config, _ = load_config(setting.config)
    model = model_config(config["model"], 4)
    if sd:
        model.update(
            type=DistilledMask2Former,
            meta_teacher=MetaTeacher(sam),
            sd_weight=1.0,
            sd_points=setting.points,
            sd_target="decoder",
            sd_loss="structural",
        )
    torch.manual_seed(0)
    network: torch.nn.Module = MODELS.build(model).to(device)
    return network.train()


def _make_batch(setting: Setting) -> dict[str, Any]:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    height, width = setting.size_hw_px
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for _ in range(setting.batch):
        inputs.append(torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8))
        masks = torch.zeros(4, height, width, dtype=torch.uint8)
        for k, mask in enumerate(masks):
            mask[height // 4 : height // 2, k * width // 4 : (k + 1) * width // 4 - 2] = 1
        sample = DetDataSample(metainfo={"img_shape": (height, width), "ori_shape": (height, width)})
        sample.gt_instances = InstanceData(
            labels=torch.arange(4), bboxes=torch.zeros(4, 4), masks=BitmapMasks(masks.numpy(), height, width)
        )
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def _step(model: Any, batch: dict[str, Any]) -> None:
    data = model.data_preprocessor(batch, training=True)
    with torch.autocast("cuda", torch.bfloat16, enabled=data["inputs"].is_cuda):
        losses = model.loss(data["inputs"], data["data_samples"])
    loss, _ = model.parse_losses(losses)
    loss.backward()
    model.zero_grad(set_to_none=True)


def _with_plain_tokens(run: Callable[[], None]) -> None:
    """Run with SAM's own two-way transformer in place of the shared path."""
    shared = tokens.stream_decoder_tokens
    tokens.stream_decoder_tokens = _plain_tokens  # type: ignore[assignment]
    try:
        run()
    finally:
        tokens.stream_decoder_tokens = shared


@torch.no_grad()
def _plain_tokens(
    sam: BatchedSam, embeddings: ImageEmbeddings, points_xy_px: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """As `stream_decoder_tokens`, with every prompt carrying its own image side."""
    decoder, encoder = sam.network.sam_mask_decoder, sam.network.sam_prompt_encoder
    num_images, num_points, _ = points_xy_px.shape
    prompts = tokens.Prompts(points_xy_px=points_xy_px.reshape(-1, 1, 2))
    image_index = torch.arange(num_images, device=sam.device).repeat_interleave(num_points)
    sizes_wh = torch.tensor(embeddings.image_hw_px, dtype=torch.float32, device=sam.device).flip(1)
    own_tokens = [decoder.obj_score_token.weight] if decoder.pred_obj_scores else []
    own_tokens += [decoder.iou_token.weight, decoder.mask_tokens.weight]

    def run(start: int, stop: int) -> Tensor:
        index = image_index[start:stop]
        sparse, _ = embed_prompts(encoder, prompts.chunk(start, stop, sam.device), sizes_wh[index])
        every = torch.cat([torch.cat(own_tokens).expand(len(index), -1, -1), sparse.to(sam.dtype)], dim=1)
        no_mask = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).to(sam.dtype)
        position = encoder.get_dense_pe().to(sam.dtype).expand(len(index), -1, -1, -1)
        image_tokens: Tensor = decoder.transformer(embeddings.tokens_BChw[index] + no_mask, position, every)[
            1
        ]
        return image_tokens

    yield from sam.decoder_chunks.map(run, len(prompts))


def _print(seconds: dict[str, float], setting: Setting, device: torch.device) -> None:
    height, width = setting.size_hw_px
    about = f"{setting.config.stem}, {setting.batch} x {height}x{width}, {setting.points} points"
    table = Table("step", "seconds", "of supervised", title=f"{about}, {device_name(device)}")
    for path, median in seconds.items():
        table.add_row(path, f"{median:.3f}", f"{median / seconds['supervised']:.2f}")
    show(table)
