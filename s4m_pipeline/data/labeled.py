"""The labeled training and validation images of an experiment, and images that two data sets share."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from s4m_pipeline.config.groups import DataOptions, Split
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.depth_files import require_depth
from s4m_pipeline.data.findings import Findings, Problem, first_names
from s4m_pipeline.data.root import missing_name


def load_labeled(data: DataOptions) -> tuple[CocoData, CocoData]:
    """Load the labeled training images and the validation images; reports unusable annotations.

    Raises:
        UserError: if their classes differ, they share images, image files are missing or empty, or depth maps
            are missing.
    """
    train = load_coco(data.path(data.labeled), data.path(data.train_images))
    val = load_coco(*data.split("val"))
    if train.class_names != val.class_names:
        raise UserError(
            "Training and validation data have different classes.\n"
            f"  {train.json_path} ({len(train.class_names)}): {', '.join(train.class_names)}\n"
            f"  {val.json_path} ({len(val.class_names)}): {', '.join(val.class_names)}\n"
            "Both files need the same categories."
        )
    for data_set in (train, val):  # before the comparison, which can only compare names of missing files
        _require_files(data_set)
        if data.depth is not None:
            require_depth(data_set.images, data.depth)
    check_leak(train, val)
    unusable = sum(map(len, train.annotations.values())) - len(train.usable)
    if unusable:
        console.progress.print(
            f"{train.json_path}: {unusable} annotations are crowd regions, empty or contradictory and are "
            f"not used for training (`s4m data check {train.json_path}` lists them).",
            soft_wrap=True,
        )
    return train, val


def held_out_sets(data: DataOptions) -> list[CocoData]:
    """The validation images and, if the config names some, the test images.

    Raises:
        UserError: as `load_coco`.
    """
    splits: list[Split] = ["val"] if data.test is None else ["val", "test"]
    return [load_coco(*data.split(name)) for name in splits]


def _require_files(data: CocoData) -> None:
    """Refuse missing or empty image files, all in one message."""
    findings = Findings()
    for image in data.images:
        if not (size_bytes := file_size(image.path)):
            if size_bytes is None:
                findings.add(Problem.FILE_MISSING, missing_name(image.path, image.file_name))
            else:
                findings.add(Problem.FILE_EMPTY, image.file_name)
    command = f"s4m data check {data.json_path} --images {data.images_root}"
    findings.raise_errors(data.json_path, f"{data.folder_advice()}Next: `{command}` checks all images.")


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
