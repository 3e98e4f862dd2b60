"""What the readers of all formats share: they collect images, objects and faults."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s4m_cache.coco import LabeledImages
from s4m_cache.limits import MAX_PIXELS
from s4m_cache.masks import Masks
from s4m_cache.records import ImageLabels, Instances
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.findings import first_names
from s4m_pipeline.data.images import ImageError, read_header

REACH_PX = 1_000_000
"""Corners farther away are refused."""


class FormatError(Exception):
    """One image's annotations cannot be used; the message says why."""


@dataclass(frozen=True)
class ReadLabels:
    """The content of a data set in any format."""

    labeled: LabeledImages
    images: Path
    """Folder that the file names are relative to."""
    notes: tuple[str, ...]
    """What was left out, and how classes were found."""

    @property
    def num_objects(self) -> int:
        """Objects of all images."""
        return sum(len(labels.instances) for _, labels in self.labeled)


class Collector:
    """Collects the annotated images of a data set.

    Args:
        source: the data set, for messages.
        images: folder that file names are relative to.
        max_pixels: largest accepted width x height.
    """

    def __init__(self, source: Path, images: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.source, self.images = source, images
        self._max_pixels = max_pixels
        self._found: dict[str, tuple[int, int, list[str], Masks]] = {}
        self._faults: list[str] = []
        self._without_pixels = 0

    def fault(self, name: str, reason: str) -> None:
        """Note why the annotations of one file cannot be used."""
        self._faults.append(f"{name} ({reason})")

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of an image, upright.

        Raises:
            FormatError: if it cannot be read.
        """
        try:
            header = read_header(path, self._max_pixels)
        except ImageError as error:
            raise FormatError(f"image {path}: {error.detail}") from error
        return header.height, header.width

    def add(
        self, path: Path, size_hw: tuple[int, int], names: Sequence[str], masks: Iterable[NDArray[np.bool_]]
    ) -> None:
        """Add an image with the class name and the mask (H, W) of each object; those without pixels are
        counted only.

        Raises:
            FormatError: if it lies outside the image folder, or was added before.
        """
        self.add_packed(path, size_hw, names, Masks.join([Masks.from_dense(mask[None]) for mask in masks]))

    def add_packed(self, path: Path, size_hw: tuple[int, int], names: Sequence[str], masks: Masks) -> None:
        """As `add`, with packed masks."""
        name = self._file_name(path)
        if name in self._found:
            raise FormatError(f"image {name} has annotations already")
        kept = masks.areas > 0
        self._without_pixels += int((~kept).sum())
        named = [text for text, filled in zip(names, kept.tolist(), strict=True) if filled]
        self._found[name] = (*size_hw, named, masks.select(kept))

    def done(self, classes: Sequence[str] | None, advice: str, notes: Iterable[str] = ()) -> ReadLabels:
        """Everything that was added, images in the order of their names.

        Args:
            classes: names by label; None: those found, in alphabetical order.
            advice: what to do about faults.
            notes: for the result.

        Raises:
            UserError: one message with all faults, or if there is no image or no object.
        """
        if self._faults:
            count = len(self._faults)
            raise UserError(
                f"{self.source}: {count} files cannot be used: {first_names(self._faults)}\n{advice}"
            )
        counts = Counter(name for _, _, names, _ in self._found.values() for name in names)
        if not counts:
            raise UserError(f"{self.source}: no object in {len(self._found)} images.\n{advice}")
        classes = sorted(counts) if classes is None else classes
        label = {name: number for number, name in enumerate(classes)}
        read = {
            image_id: ImageLabels(
                image_id=image_id,
                height=height,
                width=width,
                instances=Instances.create(
                    masks=masks, labels=[label[name] for name in names], scores=[1.0] * len(names)
                ),
            )
            for image_id, (_, (height, width, names, masks)) in enumerate(sorted(self._found.items()), 1)
        }
        if self._without_pixels:
            notes = [*notes, f"{self._without_pixels} objects without a pixel are left out"]
        return ReadLabels(
            LabeledImages(
                classes=tuple(classes),
                category_ids=range(1, len(classes) + 1),
                file_names=dict(enumerate(sorted(self._found), 1)),
                read=read.__getitem__,
            ),
            self.images,
            tuple(notes),
        )

    def _file_name(self, path: Path) -> str:
        for folder, file in ((self.images, path), (self.images.resolve(), path.resolve())):
            if file.is_relative_to(folder):
                return file.relative_to(folder).as_posix()
        raise FormatError(f"image {path} is not in the image folder {self.images}")
