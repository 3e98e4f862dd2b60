"""ARP as a batch step against the per-instance form on the CPU, and against what the memory allows.

    s4m bench arp        (or python -m benchmarks.arp)

The other form is mmdet's `CopyPaste` in kind: numpy on unsigned bytes, one pair at a time, a loop over the
instances; OpenCV resizes what moves. Both paste both ways within the same pairs, in turn in
one run. On a CPU the seconds are processor time of one thread. The bytes are those that no implementation can
do without: every mask and pixel of the input read once and every one of the output written once. Divided by
the time they are compared with a copy of as many bytes, into memory in use (copy) or new memory (clone).
"""

import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.cache import draw_mask
from s4m_pipeline.options.student import ArpOptions
from s4m_pipeline.student.arp import LabelledImages, Placement, draw_placements, paste_instances

NUM_IMAGES = 16
SIZE_HW = (512, 1024)
NUM_INSTANCES = 10
ROUNDS = 5
OPTIONS = {
    "Cityscapes: same place": ArpOptions(),
    "COCO: scale 0.8-1.2, random place": ArpOptions(scale_range=(0.8, 1.2), placement="random"),
}


class NumpyImage(NamedTuple):
    """One image as mmdet's transforms see it."""

    pixels: NDArray[np.uint8]
    """(H, W, 3)."""
    masks: NDArray[np.uint8]
    """(N, H, W)."""
    labels: NDArray[np.int64]


def main() -> None:
    """Print seconds per step of both forms and the rate at which ours moves bytes."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = draw_images()
    batch = as_batch(images, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, 1 thread"
    title = f"ARP, {NUM_IMAGES} images of {SIZE_HW[0]}x{SIZE_HW[1]}, {NUM_INSTANCES} instances each, {name}"
    columns = ("batch step, ms", "per instance, ms", "ratio", "MB", "GB/s", "copy, GB/s", "clone, GB/s")
    table = Table("", *columns, title=title)
    for setting, options in OPTIONS.items():
        compare(images, batch, options)
        num_bytes = least_bytes(batch, paste(batch, options))
        copied = torch.empty(num_bytes // 2, dtype=torch.uint8, device=device).fill_(1)
        into = torch.empty_like(copied)
        ours, theirs, *copies = time_in_turn(
            lambda options=options: paste(batch, options),
            lambda options=options: paste_per_instance(images, placements_of(batch, options)),
            lambda into=into, copied=copied: into.copy_(copied),
            copied.clone,
            device=device,
        )
        rates = [num_bytes / seconds / 1e9 for seconds in (ours, *copies)]
        figures = (ours * 1e3, theirs * 1e3, theirs / ours, num_bytes / 1e6, *rates)
        table.add_row(setting, *(f"{value:.1f}" for value in figures))
    Console(width=140).print(table)


def draw_images() -> list[NumpyImage]:
    """Noise with star-shaped instances of widely spread sizes, the same at every call."""
    rng = np.random.default_rng(0)
    height, width = SIZE_HW
    images = []
    for _ in range(NUM_IMAGES):
        masks = np.zeros((NUM_INSTANCES, height, width), np.uint8)
        for mask in masks:
            h, w = np.clip(np.exp(rng.normal(np.log(90), 0.6, size=2)), 8, height - 2).astype(int).tolist()
            y, x = int(rng.integers(0, height - h)), int(rng.integers(0, width - w))
            mask[y : y + h, x : x + w] = draw_mask(rng, h, w)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        images.append(NumpyImage(pixels, masks, rng.integers(0, 8, NUM_INSTANCES)))
    return images


def as_batch(images: list[NumpyImage], device: torch.device) -> LabelledImages:
    pixels = torch.from_numpy(np.stack([image.pixels for image in images])).permute(0, 3, 1, 2)
    return LabelledImages(
        pixels_B3HW=(pixels.float() / 255).contiguous().to(device),
        sizes_hw=[SIZE_HW] * len(images),
        masks=[torch.from_numpy(image.masks.astype(bool)).to(device) for image in images],
        labels=[torch.from_numpy(image.labels).to(device) for image in images],
    )


def paste(batch: LabelledImages, options: ArpOptions) -> LabelledImages:
    torch.manual_seed(0)
    return paste_instances(batch, options)


def placements_of(batch: LabelledImages, options: ArpOptions) -> list[Placement]:
    torch.manual_seed(0)
    return draw_placements(batch, options)


def paste_per_instance(images: list[NumpyImage], placements: list[Placement]) -> list[NumpyImage]:
    """Each target in turn: image and masks of the source are moved, each instance on its own, then pasted."""
    results = list(images)
    for placement in placements:
        source, target = images[placement.source], images[placement.target]
        moved_pixels = move(source.pixels, placement, cv2.INTER_LINEAR)
        moved = [move(source.masks[k], placement, cv2.INTER_NEAREST_EXACT) for k in placement.group.kept]
        union = np.any(moved, axis=0)
        pixels = np.where(union[..., None], moved_pixels, target.pixels)
        masks = [np.where(union, 0, mask) for mask in target.masks] + moved
        labels = np.concatenate([target.labels, source.labels[placement.group.kept]])
        left = [k for k, mask in enumerate(masks) if mask.any()]
        results[placement.target] = NumpyImage(pixels, np.stack([masks[k] for k in left]), labels[left])
    return results


def move(image: NDArray[np.uint8], placement: Placement, interpolation: int) -> NDArray[np.uint8]:
    """The group's box cut out, resized, and placed on an empty image; as it is where nothing moves."""
    box, at, visible = placement.group.box, placement.at, placement.visible
    if at == box == visible:
        return image
    resized = cv2.resize(image[box.slices], at.size_hw[::-1], interpolation=interpolation)
    placed = np.zeros_like(image)
    rows = slice(visible.top - at.top, visible.bottom - at.top)
    columns = slice(visible.left - at.left, visible.right - at.left)
    placed[visible.slices] = resized[rows, columns]
    return placed


def compare(images: list[NumpyImage], batch: LabelledImages, options: ArpOptions) -> None:
    """Both forms give the same, but for OpenCV's rounding to bytes and of the nearest cell."""
    ours = paste(batch, options)
    for i, other in enumerate(paste_per_instance(images, placements_of(batch, options))):
        np.testing.assert_array_equal(ours.labels[i].cpu().numpy(), other.labels)
        assert np.mean(ours.masks[i].cpu().numpy() != (other.masks > 0)) < 1e-4
        pixels = ours.pixels_B3HW[i].permute(1, 2, 0).cpu().numpy() * 255
        assert np.mean(np.abs(pixels - other.pixels) > 2) < 1e-4


def least_bytes(before: LabelledImages, after: LabelledImages) -> int:
    tensors = [before.pixels_B3HW, after.pixels_B3HW, *before.masks, *after.masks]
    return sum(tensor.nbytes for tensor in tensors)


def time_in_turn(*runs: Callable[[], object], device: torch.device) -> list[float]:
    """Median seconds of each, the first round left out."""
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(ROUNDS + 1):
        for run, taken in zip(runs, seconds, strict=True):
            began = now(device)
            run()
            if turn:
                taken.append(now(device) - began)
    return [statistics.median(taken) for taken in seconds]


def now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
