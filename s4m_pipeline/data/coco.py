"""Read COCO JSON: all structural problems in one pass; entries without errors become typed records."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4m_cache.fingerprint import file_version
from s4m_cache.limits import MAX_PIXELS
from s4m_pipeline.data.coco_entries import (
    Category,
    CocoImage,
    parse_annotations,
    parse_categories,
    parse_images,
    read_document,
    unreadable,
)
from s4m_pipeline.data.findings import Findings, Problem
from s4m_pipeline.data.root import ImageRoot, folder_advice


@dataclass(frozen=True)
class CocoData:
    """A data set read from COCO JSON, without the entries that have errors."""

    json_path: Path
    images_root: Path
    sha256: str
    """Of the JSON file's bytes."""
    categories: tuple[Category, ...]
    """In id order, so that the index of a category is its label."""
    images: tuple[CocoImage, ...]
    """In id order."""
    annotations: Mapping[int, list[dict[str, Any]]]
    """COCO annotations by image id, in id order, crowd regions included; no key for images without any.

    Polygons of fewer than 3 points are dropped; a missing `iscrowd` is 0, a missing `area` or `bbox` is that
    of the mask.
    """
    usable: frozenset[int]
    """Ids of the annotations used for training: no crowd, no repetition, a box of at least one pixel, a mask
    that covers pixels, and both at the same place."""

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return [category.name for category in self.categories]

    def instances(self, image_id: int) -> list[dict[str, Any]]:
        """The usable annotations of an image."""
        return [a for a in self.annotations.get(image_id, []) if a["id"] in self.usable]

    def folder_advice(self) -> str:
        """How to correct a wrong image folder or prefix of all file names, as `root.folder_advice`."""
        return folder_advice(self.images_root, [image.file_name for image in self.images])

    def class_counts(self, images: Iterable[CocoImage]) -> dict[str, int]:
        """Number of usable instances of each class in `images`, including zeros."""
        counts = {category.id: 0 for category in self.categories}
        for image in images:
            for annotation in self.instances(image.id):
                counts[annotation["category_id"]] += 1
        return {category.name: counts[category.id] for category in self.categories}


def load_coco(
    json_path: Path, images_root: Path, *, labeled: bool = True, max_pixels: int = MAX_PIXELS
) -> CocoData:
    """Read a data set and refuse it if its JSON has errors; image files are not opened.

    A process parses a file again only after it changed: callers share the data and must not modify them.

    Args:
        json_path: COCO JSON; category ids may be sparse.
        images_root: folder that the file names are relative to.
        labeled: whether at least one usable annotation is required.
        max_pixels: largest accepted width x height.

    Raises:
        UserError: not a COCO JSON file, or one message naming all its errors.
    """
    data, found = _parse_once(json_path, images_root.resolve(), max_pixels, _version(json_path))
    findings = Findings()
    findings.update(found)
    if not labeled:
        findings.discard(Problem.INSTANCE_NONE)
    elif not data.usable and not findings.names(Problem.INSTANCE_NONE):
        findings.add(Problem.INSTANCE_NONE, "the file has no annotations")
    findings.raise_errors(
        json_path, f"Next: `s4m data check {json_path} --images {images_root}` lists them all."
    )
    return data


@functools.lru_cache(maxsize=8)
def _parse_once(
    json_path: Path, images_root: Path, max_pixels: int, version: object
) -> tuple[CocoData, Findings]:
    return parse_coco(json_path, images_root, max_pixels)


def _version(path: Path) -> object:
    try:
        return file_version(path)
    except OSError as error:
        raise unreadable(path, error) from error


def parse_coco(json_path: Path, images_root: Path, max_pixels: int = MAX_PIXELS) -> tuple[CocoData, Findings]:
    """Read the valid entries of a data set and all problems of its JSON; image files are not opened.

    Raises:
        UserError: not a readable JSON file with lists `images` and `categories`.
    """
    document, sha256 = read_document(json_path)
    findings = Findings()
    root = ImageRoot(images_root)
    categories = parse_categories(document["categories"], findings)
    images = parse_images(document["images"], root, max_pixels, findings)
    annotations, usable = parse_annotations(document["annotations"], categories, images, findings)
    data = CocoData(
        json_path=json_path,
        images_root=root.folder,
        sha256=sha256,
        categories=categories,
        images=tuple(images[image_id] for image_id in sorted(images)),
        annotations=annotations,
        usable=frozenset(usable),
    )
    _add_usage(data, findings)
    return data, findings


def _add_usage(data: CocoData, findings: Findings) -> None:
    """Add classes and images without a usable instance; nothing for unlabeled data."""
    if not data.usable:
        return
    for name, count in data.class_counts(data.images).items():
        if count == 0:
            findings.add(Problem.CATEGORY_UNUSED, name)
    for image in data.images:
        if not data.instances(image.id):
            findings.add(Problem.IMAGE_WITHOUT_INSTANCE, image.file_name)
