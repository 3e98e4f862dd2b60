"""One training step of the teacher: supervised, with SD by the plain path, with SD by the shared path.

The plain path gives SAM's decoder a copy of the image side for every query point, as public code does; the
shared path makes the image side of the first two-way block once per image. Timed in turn in one run. On a CPU
the demo's network and the nano SAM 2 are used and the seconds are processor time of one thread; on a GPU the
paper's network and SAM 2.1 Hiera-L with random weights, whose time does not depend on them.
"""

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from s4m_pipeline.config import load_config
from s4m_pipeline.layout import CONFIGS
from s4m_pipeline.registry import register_all
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
    "cuda": Setting(CONFIGS / "cityscapes/cityscapes_10.py", (512, 1024), 4, 128),
}


def main(repeats: int = 3) -> None:
    """Print seconds per step of each path, as medians of `repeats`, and ratios."""
    register_all()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    setting = SETTINGS[device.type]
    torch.set_num_threads(1)
    network = load_sam("nano").network if device.type == "cpu" else build_sam("facebook/sam2.1-hiera-large")
    sam = BatchedSam(network, device=device)
    supervised, distilled = (_build_model(setting, sam, device, sd) for sd in (False, True))
    batch = _make_batch(setting)
    paths: dict[str, Callable[[], None]] = {
        "supervised": lambda: _step(supervised, batch),
        "+ SD, plain": lambda: _with_plain_tokens(lambda: _step(distilled, batch)),
        "+ SD, shared": lambda: _step(distilled, batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for repeat in range(repeats + 1):  # the first one warms up
        for name, run in paths.items():
            took = _time(run, device)
            if repeat:
                seconds[name].append(took)
    _print(seconds, setting, device)


def _build_model(setting: Setting, sam: BatchedSam, device: torch.device, sd: bool) -> torch.nn.Module:
    from mmdet.registry import MODELS

    from s4m_pipeline.engine.parts import model_config
    from s4m_pipeline.models.distilled import MetaTeacher

    parts, _ = load_config(setting.config)
    config = model_config(parts["model"], 4)
    if sd:
        config.update(
            type="DistilledMask2Former",
            meta_teacher=MetaTeacher(sam),
            sd_weight=1.0,
            sd_points=setting.points,
            sd_target="decoder",
            sd_loss="structural",
        )
    torch.manual_seed(0)
    model: torch.nn.Module = MODELS.build(config).to(device)
    return model.train()


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


def _step(model: torch.nn.Module, batch: dict[str, Any]) -> None:
    data = model.data_preprocessor(batch, training=True)
    with torch.autocast("cuda", torch.bfloat16, enabled=data["inputs"].is_cuda):
        losses = model.loss(data["inputs"], data["data_samples"])
    loss, _ = model.parse_losses(losses)
    loss.backward()
    model.zero_grad(set_to_none=True)


def _with_plain_tokens(run: Callable[[], None]) -> None:
    """Run with SAM's own two-way transformer in place of the shared path."""
    shared = tokens.stream_decoder_tokens
    tokens.stream_decoder_tokens = _plain_tokens
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


def _time(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cpu":
        began = time.process_time()
        run()
        return time.process_time() - began
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _print(seconds: dict[str, list[float]], setting: Setting, device: torch.device) -> None:
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, 1 thread"
    )
    height, width = setting.size_hw_px
    title = f"{setting.config.stem}, {setting.batch} x {height}x{width}, {setting.points} points, {name}"
    table = Table("step", "seconds", "of supervised", title=title)
    base = statistics.median(seconds["supervised"])
    for path, values in seconds.items():
        table.add_row(path, f"{statistics.median(values):.3f}", f"{statistics.median(values) / base:.2f}")
    Console().print(table)
