"""Mask2Former's loss, forward and backward: whole batches matched at once against mmdet's image by image.

    s4m bench loss

Both heads get the same random logits and objects; the tests compare their losses. On a CPU, seconds are
processor time of one thread.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from mmengine.structures import InstanceData
from rich.table import Table
from torch import Tensor, nn

from s4m_pipeline.apps.bench.timing import choose_device, device_name, show, time_in_turn
from s4m_pipeline.config.loading import load_config
from s4m_pipeline.core.paths import CONFIGS
from s4m_pipeline.models.load import model_config
from s4m_pipeline.models.registry import register_all

NUM_CLASSES = 8


class Size(NamedTuple):
    """A training step's share of images, and the config whose head it is."""

    config: str
    images: int
    objects: int
    crop_hw: tuple[int, int]


SIZES = {
    "demo": Size("demo/demo.py", 8, 5, (128, 128)),
    "Cityscapes": Size("cityscapes/cityscapes.py", 4, 10, (512, 1024)),
}


def main() -> None:
    """Print the seconds of both and their ratio."""
    register_all()
    device = choose_device()
    table = Table(
        "",
        "whole batch, ms",
        "image by image, ms",
        "ratio",
        title=f"Mask2Former's loss, {device_name(device)}",
    )
    for name, size in SIZES.items():
        heads = build_heads(size, device)
        batch = draw_batch(heads[0], size, device)
        runs = run_losses(heads, batch)
        ours, theirs = time_in_turn({str(number): run for number, run in enumerate(runs)}, device).values()
        height, width = size.crop_hw
        about = f"{name}: {size.images} images of {height}x{width}, {size.objects} objects each"
        table.add_row(about, f"{ours * 1e3:.0f}", f"{theirs * 1e3:.0f}", f"{theirs / ours:.1f}")
    show(table)


def build_heads(size: Size, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Ours and mmdet's, of the same config."""
    from mmdet.registry import MODELS

    config, _ = load_config(CONFIGS / size.config)
    model = model_config(config["model"], NUM_CLASSES)
    head = {**model["panoptic_head"], "train_cfg": model["train_cfg"], "test_cfg": model["test_cfg"]}
    ours, theirs = (
        MODELS.build({**head, "type": kind}) for kind in ("BatchedMask2FormerHead", "Mask2FormerHead")
    )
    return ours.to(device), theirs.to(device)


def draw_batch(head: Any, size: Size, device: torch.device) -> tuple[Tensor, Tensor, list[InstanceData]]:
    """Logits of every decoder layer, and rectangles as objects."""
    random = torch.Generator().manual_seed(0)
    layers, queries = head.num_transformer_decoder_layers + 1, head.num_queries
    height, width = size.crop_hw
    classes = torch.randn(layers, size.images, queries, NUM_CLASSES + 1, generator=random)
    masks = torch.randn(layers, size.images, queries, height // 4, width // 4, generator=random)
    objects = []
    for _ in range(size.images):
        filled = torch.zeros(size.objects, height, width, dtype=torch.bool)
        for mask, (top, left) in zip(
            filled, torch.rand(size.objects, 2, generator=random).tolist(), strict=True
        ):
            y, x = int(top * 0.7 * height), int(left * 0.7 * width)
            mask[y : y + height // 4, x : x + width // 6] = True
        labels = torch.randint(NUM_CLASSES, (size.objects,), generator=random)
        objects.append(InstanceData(labels=labels.to(device), masks=filled.to(device)))
    return classes.to(device).requires_grad_(), masks.to(device).requires_grad_(), objects


def run_losses(
    heads: Sequence[nn.Module], batch: tuple[Tensor, Tensor, list[InstanceData]]
) -> list[Callable[[], Tensor]]:
    """Forward and backward of each head's loss; returns the loss."""
    classes, masks, objects = batch
    as_mmdet_keeps_them = [InstanceData(labels=image.labels, masks=image.masks.long()) for image in objects]

    def run(head: Any, kept: list[InstanceData]) -> Tensor:
        torch.manual_seed(0)
        losses: dict[str, Tensor] = head.loss_by_feat(classes, masks, kept, [{}] * len(objects))
        total = torch.stack([loss.sum() for loss in losses.values()]).sum()
        torch.autograd.grad(total, (classes, masks))
        return total

    return [partial(run, *pair) for pair in zip(heads, (objects, as_mmdet_keeps_them), strict=True)]
