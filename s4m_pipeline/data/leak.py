"""Find images that two data sets share, even under different names."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.findings import first_names


def check_leak(train: CocoData, validation: CocoData) -> None:
    """Refuse training data that shares images with the validation data.

    Raises:
        UserError: naming the shared images.
    """
    names = shared_names(train.images, validation.images)
    if names:
        raise UserError(
            f"{train.json_path}: {len(names)} images are also in the validation set {validation.json_path}: "
            f"{first_names(names)}. Remove them from one of the two: scores on training images are "
            "meaningless."
        )


def shared_names(images: Iterable[CocoImage], others: Iterable[CocoImage]) -> list[str]:
    """Names of the `images` that are also in `others`, with their name there if it is different."""
    return [
        image.file_name if image.file_name == other.file_name else f"{image.file_name} (= {other.file_name})"
        for image, other in shared_images(images, others)
    ]


def shared_images(
    images: Iterable[CocoImage], others: Iterable[CocoImage]
) -> list[tuple[CocoImage, CocoImage]]:
    """Pairs (image, other) of identical images, at most one pair per element of `images`.

    Identical means: the same file, or files of equal bytes; if one of the two files is missing, the same
    name. Ids are not compared, because separately numbered data sets both have an image 1. Only files whose
    size in bytes occurs on both sides are read.
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
        same_name = by_name.get(image.file_name)
        comparable = same_name is not None and size is not None and sizes[same_name.path] is not None
        return None if comparable else same_name

    return [(image, found) for image in images if (found := find(image)) is not None]


def first_copies(images: Iterable[CocoImage]) -> dict[str, str]:
    """The first name, in the order of names, of a file with the same bytes, by name of each image.

    Only files whose size in bytes occurs more than once are read.
    """
    by_size: dict[int | None, list[CocoImage]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.file_name):
        by_size[file_size(image.path)].append(image)
    firsts: dict[str, str] = {}
    for size, same_size in by_size.items():
        by_digest: dict[bytes, str] = {}
        for image in same_size:
            name = image.file_name
            compared = size is not None and len(same_size) > 1
            firsts[name] = by_digest.setdefault(_digest(image.path), name) if compared else name
    return firsts


def file_size(path: Path) -> int | None:
    """Size in bytes; None if the file is missing."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
