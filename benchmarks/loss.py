"""Mask2Former's loss, forward and backward: whole batches matched at once against mmdet's image by image.

    s4m bench loss        (or python -m benchmarks.loss)

Both heads get the same random logits and objects and draw the same points, so their losses are equal, which
is checked on the CPU. There the seconds are processor time of one thread.
"""

import platform
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmengine.structures import InstanceData
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.arp import now
from s4m_pipeline.config import load_config
from s4m_pipeline.engine.parts import model_config
from s4m_pipeline.layout import CONFIGS
from s4m_pipeline.registry import register_all

ROUNDS = 5
NUM_CLASSES = 8


class Size(NamedTuple):
    """A training step's share of images, and the config whose head it is."""

    config: str
    images: int
    objects: int
    crop_hw: tuple[int, int]


SIZES = {
    "demo": Size("demo/demo.py", 8, 5, (128, 128)),
    "Cityscapes": Size("cityscapes/cityscapes_10.py", 4, 10, (512, 1024)),
}


def main() -> None:
    """Print the seconds of both and their ratio."""
    torch.set_num_threads(1)
    register_all()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, 1 thread"
    table = Table("", "whole batch, ms", "image by image, ms", "ratio", title=f"Mask2Former's loss, {name}")
    for title, size in SIZES.items():
        heads = build_heads(size, device)
        batch = draw_batch(heads[0], size, device)
        ours, theirs = time_in_turn(heads, batch, device)
        height, width = size.crop_hw
        about = f"{title}: {size.images} images of {height}x{width}, {size.objects} objects each"
        table.add_row(about, f"{ours * 1e3:.0f}", f"{theirs * 1e3:.0f}", f"{theirs / ours:.1f}")
    Console(width=140).print(table)


def build_heads(size: Size, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Ours and mmdet's, of the same config."""
    from mmdet.registry import MODELS

    parts, _ = load_config(CONFIGS / size.config)
    config = model_config(parts["model"], NUM_CLASSES)
    head = {**config["panoptic_head"], "train_cfg": config["train_cfg"], "test_cfg": config["test_cfg"]}
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


def time_in_turn(
    heads: Sequence[nn.Module], batch: tuple[Tensor, Tensor, list[InstanceData]], device: torch.device
) -> list[float]:
    """Median seconds of each; the first round, in which their losses are compared, is left out."""
    classes, masks, objects = batch
    as_mmdet_keeps_them = [InstanceData(labels=image.labels, masks=image.masks.long()) for image in objects]
    seconds: list[list[float]] = [[] for _ in heads]
    for turn in range(ROUNDS + 1):
        totals = []
        for head, kept, taken in zip(heads, (objects, as_mmdet_keeps_them), seconds, strict=True):
            torch.manual_seed(turn)
            began = now(device)
            losses: dict[str, Tensor] = head.loss_by_feat(classes, masks, kept, [{}] * len(objects))
            total = sum(losses.values()).sum()
            torch.autograd.grad(total, (classes, masks))
            taken.append(now(device) - began)
            totals.append(total)
        if turn == 0 and device.type == "cpu":
            torch.testing.assert_close(*totals)
    return [statistics.median(taken[1:]) for taken in seconds]


if __name__ == "__main__":
    main()
