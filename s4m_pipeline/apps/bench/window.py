"""A training sample's masks from packed to tensor: the way of the student's loader against dense masks.

    s4m bench window

Both go through the operations of the Cityscapes pipeline on the same drawn masks: rescale, crop with boxes,
flip, filter by area. "Dense" decodes whole images into mmdet's BitmapMasks first. Times are CPU time per
image.
"""

import dataclasses
import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from rich.table import Table

from s4m_cache.records import ImageLabels
from s4m_pipeline.apps.bench.cache import SETTINGS, add_row, draw_images, in_turn
from s4m_pipeline.apps.bench.timing import show
from s4m_pipeline.data.window_masks import WindowMasks

SETTING = dataclasses.replace(SETTINGS[0], num_images=4)
CROP_HW = (512, 1024)
HEIGHTS = (512, 1024, 2048)
"""Of the rescaled image: the least, the middle and the largest of the Cityscapes pipeline."""


def main() -> None:
    """Measure and print a table."""
    images = draw_images(SETTING)
    what = f"{SETTING.num_instances} masks, {SETTING.height} x {SETTING.width}, to a crop"
    table = Table(
        title=f"{what} of {CROP_HW[0]} x {CROP_HW[1]} ({os.cpu_count()} cores)", title_justify="left"
    )
    for column in ("", "packed", "dense", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for height in HEIGHTS:
        measure(table, images, height)
    show(table)


def measure(table: Table, images: list[ImageLabels], height: int) -> None:
    """Time in the loader's process, bytes sent, and time in the training process, for one size."""
    ways: list[Callable[[ImageLabels], Any]] = [packed, dense]
    loaders = [
        lambda way=way: [augment(way(image), height, i) for i, image in enumerate(images)] for way in ways
    ]
    ours, theirs = (loader() for loader in loaders)
    for mine, other in zip(ours, theirs, strict=True):
        assert np.array_equal(mine.masks, other.masks)
    count = sum(map(len, ours)) / len(images)
    table.add_section()
    table.add_row(f"[bold]rescaled to {height} x {2 * height}: {count:.1f} masks in the crop", "", "", "")
    times = [1e3 * seconds / len(images) for seconds in in_turn(*loaders)]
    add_row(table, "in the loader's process, ms", times[0], times[1], "{:.2f}")
    sizes = [sum(len(pickle.dumps(masks)) for masks in way) / len(images) for way in (ours, theirs)]
    add_row(table, "sent to the training process, bytes", sizes[0], sizes[1], "{:,.0f}")
    times = [1e3 * s / len(images) for s in in_turn(lambda: to_tensors(ours), lambda: to_tensors(theirs))]
    add_row(table, "to a tensor there, ms", times[0], times[1], "{:.2f}")


def packed(image: ImageLabels) -> WindowMasks:
    """As the student's loader holds them."""
    return WindowMasks(image.instances.masks, image.height, image.width)


def dense(image: ImageLabels) -> BitmapMasks:
    """As mmdet holds them."""
    return BitmapMasks(image.dense().view(np.uint8), image.height, image.width)


def augment(masks: Any, height: int, seed: int) -> Any:
    """The calls of mmdet's RandomChoiceResize, RandomCrop, RandomFlip and FilterAnnotations."""
    rng = np.random.default_rng(seed)
    masks = masks.rescale((2 * height, height))
    y, x = (
        int(rng.integers(0, side - crop + 1))
        for side, crop in zip((height, 2 * height), CROP_HW, strict=True)
    )
    masks = masks.crop(np.array([x, y, x + CROP_HW[1], y + CROP_HW[0]]))
    masks.get_bboxes(HorizontalBoxes)
    masks = masks.flip("horizontal")
    return masks[masks.areas >= 1]


def to_tensors(samples: list[Any]) -> None:
    """Dense masks of each sample in turn."""
    for masks in samples:
        masks.to_tensor(torch.bool, "cpu")
