"""Images that two data sets share, whatever they are called in each."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from s4m_pipeline.data.coco import CocoData, CocoImage
from s4m_pipeline.data.findings import first_names
from s4m_pipeline.errors import UserError


def check_leak(train: CocoData, validation: CocoData) -> None:
    """Refuse training data that shares images with the validation data.

    Raises:
        UserError: naming the shared images.
    """
    names = shared_names(train.images, validation.images)
    if names:
        raise UserError(
            f"{train.json_path}: {len(names)} images are also in the validation set {validation.json_path}: "
            f"{first_names(names)}. Scores on images that were trained on mean nothing: take them out of one."
        )


def shared_names(images: Iterable[CocoImage], others: Iterable[CocoImage]) -> list[str]:
    """Names of the `images` that are also among `others`, with the other's name where it differs."""
    return [
        image.file_name if image.file_name == other.file_name else f"{image.file_name} (= {other.file_name})"
        for image, other in shared_images(images, others)
    ]


def shared_images(
    images: Iterable[CocoImage], others: Iterable[CocoImage]
) -> list[tuple[CocoImage, CocoImage]]:
    """Pairs (image, other) that are the same image, at most one pair for each of `images`.

    The same means: the same file, or files of identical bytes; where one of the two files is absent, the same
    name. Ids are not compared: separately numbered data sets both have an image 1. Only files whose size in
    bytes occurs on both sides are read.
    """
    images, others = list(images), list(others)
    by_path = {other.path: other for other in others}
    by_name = {other.file_name: other for other in others}
    sizes = {item.path: file_size(item.path) for item in [*images, *others]}
    by_size: dict[int, list[CocoImage]] = defaultdict(list)
    for other in others:
        if (size := sizes[other.path]) is not None:
            by_size[size].append(other)
    digests: dict[int, dict[bytes, CocoImage]] = {}

    def find(image: CocoImage) -> CocoImage | None:
        if image.path in by_path:
            return by_path[image.path]
        size = sizes[image.path]
        if size in by_size:
            if size not in digests:
                digests[size] = {_digest(other.path): other for other in by_size[size]}
            if found := digests[size].get(_digest(image.path)):
                return found
        namesake = by_name.get(image.file_name)
        comparable = namesake is not None and size is not None and sizes[namesake.path] is not None
        return None if comparable else namesake

    return [(image, found) for image in images if (found := find(image)) is not None]


def file_size(path: Path) -> int | None:
    """In bytes; None if the file is absent."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
