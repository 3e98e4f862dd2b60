"""From image files to batches: decoded in other processes, grouped by the size that the network sees."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.signals import ignore_external_signals
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.images import ImageError, loading, read_rgb
from s4m_pipeline.data.tiles import Tiling
from s4m_pipeline.models.registry import register_all

_PREFETCHED_PIXELS = 100_000_000
"""Of the images that wait to be used, for each process that decodes them."""
_WAITING_PIXELS = 100_000_000
"""Of the decoded images that wait for others of their size."""


class Photo(NamedTuple):
    """A decoded image, as SAM and as the teacher want it."""

    image_id: int
    pixels: Tensor
    """(3, H, W) uint8 RGB: the original."""
    inputs: Tensor
    """(3, h, w) uint8 RGB: after the test pipeline, not padded; with a depth map (4, h, w)."""


class Unreadable(NamedTuple):
    """An image that cannot be used, and why."""

    image_id: int
    file_name: str
    reason: str


class PhotoFiles(Dataset[Photo | Unreadable]):
    """Image files as photos.

    Args:
        images: files with the sizes they should have.
        pipeline: mmdet's transforms for testing; the first one must be `LoadRGB`.

    Raises:
        UserError: if the pipeline begins with another transform.
    """

    def __init__(self, images: Sequence[CocoImage], pipeline: Sequence[Mapping[str, Any]]) -> None:
        if not pipeline or pipeline[0].get("type") != "LoadRGB":
            raise UserError(
                "test_pipeline: expected LoadRGB as the first transform (the project's one way to read an "
                f"image), found {pipeline[0].get('type') if pipeline else 'nothing'}."
            )
        self.images = images
        register_all()  # the pipeline names transforms
        self._transform = Compose(list(pipeline[1:]))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Photo | Unreadable:
        """A photo, or why there is none.

        Raises:
            LoadingError: if the images' mount is gone.
        """
        with loading():
            return self._read(self.images[index])

    def _read(self, image: CocoImage) -> Photo | Unreadable:
        try:
            pixels, _ = read_rgb(image.path)
        except ImageError as error:
            return Unreadable(image.id, image.file_name, error.detail)
        size = pixels.shape[:2]
        if size != (image.height, image.width):
            listed, found = f"{image.width} x {image.height}", f"{size[1]} x {size[0]}"
            return Unreadable(image.id, image.file_name, f"is {found} pixels, listed as {listed}")
        try:
            return self.photo(image.id, pixels, image.path)
        except UserError as error:
            return Unreadable(image.id, image.file_name, str(error))

    def photo(self, image_id: int, pixels: NDArray[np.uint8], path: Path | None = None) -> Photo:
        """An image that is in memory already, uint8 RGB (H, W, 3), as a photo.

        Raises:
            UserError: if a transform cannot take its size: scaling may leave no pixel of a narrow image.
        """
        size = pixels.shape[:2]
        unpacked = {"img": pixels, "img_shape": size, "ori_shape": size, "img_path": path and str(path)}
        try:
            packed = self._transform({**unpacked, "img_id": image_id})
        except cv2.error as error:
            reason = " ".join(str(error).split())
            raise UserError(f"test_pipeline cannot take {size[1]} x {size[0]} pixels ({reason})") from error
        original = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        return Photo(image_id, original, packed["inputs"].contiguous())


def load_photos(files: PhotoFiles, workers: int, pin_memory: bool) -> Iterator[Photo | Unreadable]:
    """All photos, decoded by `workers` processes ahead of their use (0: in this one).

    Images of similar shape are read together, so that few batches are incomplete. Large ones are decoded
    just before their use, which bounds the memory.
    """
    largest_px = max((image.height * image.width for image in files.images), default=0)
    order = sorted(
        range(len(files)),
        key=lambda i: (
            files.images[i].height / max(files.images[i].width, 1),
            files.images[i].height,
            files.images[i].id,
        ),
    )
    loader: Any = DataLoader(
        files,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        prefetch_factor=min(max(_PREFETCHED_PIXELS // max(largest_px, 1), 1), 8) if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=ignore_external_signals,
    )
    return iter(loader)


def readable(photos: Iterable[Photo | Unreadable], report: Callable[[Unreadable], None]) -> Iterator[Photo]:
    """The photos among them; the others are reported."""
    for photo in photos:
        if isinstance(photo, Unreadable):
            report(photo)
        else:
            yield photo


def list_unreadable(unreadable: Iterable[tuple[str, str]]) -> str:
    """A line for each file name and reason, the first ones only."""
    lines = [f"  {name}: {reason}" for name, reason in unreadable]
    more = [f"  and {len(lines) - 10} more"] if len(lines) > 10 else []
    return "\n".join([*lines[:10], *more])


def batches_by_size(
    photos: Iterable[Photo], size: int, divisor: int, tiling: Tiling | None
) -> Iterator[list[Photo]]:
    """Batches of up to `size` photos whose inputs have one size once padded to multiples of `divisor` pixels.

    An image is therefore padded exactly as it is alone, whatever else is in its batch. At most four batches'
    worth of photos, and `_WAITING_PIXELS`, wait for others of their size. One that is cut into tiles does not
    wait: it is alone.
    """
    waiting: dict[tuple[int, ...], list[Photo]] = {}
    for photo in photos:
        if tiling is not None and max(photo.inputs.shape[-2:]) > tiling.size_px:
            yield [photo]
            continue
        padded = tuple(-(-side // divisor) for side in photo.inputs.shape[-2:])
        bucket = waiting.setdefault(padded, [])
        bucket.append(photo)
        if len(bucket) == size:
            yield waiting.pop(padded)
        while sum(map(len, waiting.values())) > 4 * size or _pixels(waiting.values()) > _WAITING_PIXELS:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def _pixels(buckets: Iterable[list[Photo]]) -> int:
    return sum(photo.pixels[0].numel() for bucket in buckets for photo in bucket)
