"""Reading COCO JSON: every structural problem found in one pass, and what is sound kept as typed records."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.limits import MAX_PIXELS
from cache.segmentation import SegmentationError, long_polygons
from s4m_pipeline.data.findings import Findings, Problem
from s4m_pipeline.data.root import ImageRoot
from s4m_pipeline.data.segmentation import area_and_box, mask_fault
from s4m_pipeline.errors import UserError

_LARGEST_ID = 2**63 - 1  # ids are stored as int64


@dataclass(frozen=True)
class Category:
    """A class: its id in the JSON (any, sparse), its name, and the contiguous `label` from 0 in id order."""

    id: int
    name: str
    label: int


@dataclass(frozen=True)
class CocoImage:
    """An image of a data set; sizes in pixels, `path` inside the image folder and free of links."""

    id: int
    file_name: str
    width: int
    height: int
    path: Path


@dataclass(frozen=True)
class CocoData:
    """A data set as read from COCO JSON, without the entries that have errors."""

    json_path: Path
    images_root: Path
    sha256: str
    """Of the JSON file's bytes."""
    categories: tuple[Category, ...]
    """In id order, so that a category's place is its label."""
    images: tuple[CocoImage, ...]
    """In id order."""
    annotations: Mapping[int, list[dict[str, Any]]]
    """COCO annotations by image id, in id order; crowd regions included; images without any are absent.

    Polygons of fewer than 3 points are left out of their masks; an absent `iscrowd` is 0, an absent `area` or
    `bbox` the mask's.
    """
    usable: frozenset[int]
    """Ids of the annotations that are learnt from: no crowd, a box of at least a pixel, a mask."""

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return [category.name for category in self.categories]

    def instances(self, image_id: int) -> list[dict[str, Any]]:
        """The usable annotations of an image."""
        return [a for a in self.annotations.get(image_id, []) if a["id"] in self.usable]

    def class_counts(self, images: Iterable[CocoImage]) -> dict[str, int]:
        """Number of usable instances of every class (also those with none) in `images`."""
        counts = {category.id: 0 for category in self.categories}
        for image in images:
            for annotation in self.instances(image.id):
                counts[annotation["category_id"]] += 1
        return {category.name: counts[category.id] for category in self.categories}


def load_coco(
    json_path: Path, images_root: Path, *, labelled: bool = True, max_pixels: int = MAX_PIXELS
) -> CocoData:
    """Read a data set and refuse it if its JSON has any error; image files are not opened.

    Args:
        json_path: COCO JSON; category ids may be sparse, names any.
        images_root: folder that the file names are relative to.
        labelled: whether at least one usable annotation is needed.
        max_pixels: largest width x height accepted.

    Raises:
        UserError: not a COCO JSON file, or one message naming all its errors.
    """
    data, findings = parse_coco(json_path, images_root, max_pixels)
    if not labelled:
        findings.discard(Problem.INSTANCE_NONE)
    elif not data.usable and not findings.names(Problem.INSTANCE_NONE):
        findings.add(Problem.INSTANCE_NONE, "the file has no annotations")
    findings.raise_errors(
        json_path, f"Next: `s4m data check {json_path} --images {images_root}` lists them all."
    )
    return data


def parse_coco(json_path: Path, images_root: Path, max_pixels: int = MAX_PIXELS) -> tuple[CocoData, Findings]:
    """Read what is sound of a data set, and find every problem of its JSON; image files are not opened.

    Raises:
        UserError: not a readable JSON file with lists `images` and `categories`.
    """
    document, sha256 = _read_document(json_path)
    findings = Findings()
    root = ImageRoot(images_root)
    categories = _parse_categories(document["categories"], findings)
    images = _parse_images(document["images"], root, max_pixels, findings)
    annotations, usable = _parse_annotations(document["annotations"], categories, images, findings)
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


def _read_document(path: Path) -> tuple[dict[str, Any], str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Expected a COCO JSON file.") from error
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not JSON ({error}). Is the file complete? Copy or export it again."
        ) from error
    if not isinstance(document, dict):
        document = {}
    document.setdefault("annotations", [])  # as in the files COCO itself gives for images without labels
    wrong = [
        key for key in ("images", "categories", "annotations") if not isinstance(document.get(key), list)
    ]
    if wrong:
        raise UserError(
            f"{path}: not a COCO data set: expected an object with lists `images`, `categories` and "
            f"`annotations`; missing or not a list: {', '.join(wrong)}."
        )
    return document, hashlib.sha256(content).hexdigest()


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_ID


def _parse_categories(entries: list[Any], findings: Findings) -> tuple[Category, ...]:
    names: dict[int, str] = {}
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_id(entry.get("id")) or not _is_text(entry.get("name")):
            findings.add(Problem.CATEGORY_FAULTY, f"categories[{place}]")
        elif entry["id"] in names:
            findings.add(Problem.CATEGORY_ID_TWICE, entry["id"])
        elif entry["name"] in names.values():
            findings.add(Problem.CATEGORY_NAME_TWICE, entry["name"])
        else:
            names[entry["id"]] = entry["name"]
    if not names:
        findings.add(Problem.CATEGORY_NONE, "categories")
    if list(names) != sorted(names):
        findings.add(Problem.CATEGORY_ORDER, f"{next(iter(names))} comes first, {min(names)} is lowest")
    return tuple(Category(id=i, name=names[i], label=label) for label, i in enumerate(sorted(names)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _parse_images(
    entries: list[Any], root: ImageRoot, max_pixels: int, findings: Findings
) -> dict[int, CocoImage]:
    images: dict[int, CocoImage] = {}
    paths: set[Path] = set()
    for place, entry in enumerate(entries):
        if not _is_image(entry):
            findings.add(Problem.IMAGE_FAULTY, f"images[{place}]")
            continue
        name, width, height = entry["file_name"], entry["width"], entry["height"]
        path = root.locate(name)
        if path is None:
            findings.add(Problem.FILE_OUTSIDE, name)
        elif width * height > max_pixels:
            findings.add(Problem.SIZE_OVER_LIMIT, f"{name} (JSON: {width} x {height})")
        elif entry["id"] in images:
            findings.add(Problem.IMAGE_ID_TWICE, f"{entry['id']} ({name})")
        elif path in paths:
            findings.add(Problem.FILE_TWICE, name)
        else:
            paths.add(path)
            images[entry["id"]] = CocoImage(entry["id"], name, width, height, path)
    if not images:
        findings.add(Problem.IMAGE_NONE, "images")
    return images


def _is_image(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and _is_id(entry.get("id"))
        and _is_text(entry.get("file_name"))
        and all(type(entry.get(side)) is int and entry[side] > 0 for side in ("width", "height"))
    )


def _parse_annotations(
    entries: list[Any], categories: tuple[Category, ...], images: dict[int, CocoImage], findings: Findings
) -> tuple[dict[int, list[dict[str, Any]]], set[int]]:
    category_ids = {category.id for category in categories}
    by_id: dict[int, dict[str, Any]] = {}
    usable: set[int] = set()
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_id(entry.get("id")):
            findings.add(Problem.ANNOTATION_FAULTY, f"annotations[{place}]")
        elif entry["id"] in by_id:
            findings.add(Problem.ANNOTATION_ID_TWICE, entry["id"])
        else:
            entry, absent = _completed(entry, images)
            found = [*absent, *_annotation_problems(entry, category_ids, images)]
            for problem, name in found:
                findings.add(problem, name)
            problems = {problem for problem, _ in found}
            if Problem.MASK_PART_SHORT in problems:
                entry = {**entry, "segmentation": long_polygons(entry["segmentation"])}
            if not any(problem.severity == "error" for problem in problems):
                by_id[entry["id"]] = entry
                if problems.isdisjoint(_UNUSABLE):
                    usable.add(entry["id"])
    annotations: dict[int, list[dict[str, Any]]] = {}
    for annotation_id in sorted(by_id):
        annotations.setdefault(by_id[annotation_id]["image_id"], []).append(by_id[annotation_id])
    if entries and not usable:
        counts = {problem.code: len(findings.names(problem)) for problem in _UNUSABLE}
        findings.add(
            Problem.INSTANCE_NONE, f"of {len(entries)}: {_counts_text(counts)}; the others have errors"
        )
    elif not entries:
        findings.add(Problem.ANNOTATION_NONE, "annotations")
    return annotations, usable


_UNUSABLE = (Problem.CROWD, Problem.BOX_EMPTY, Problem.MASK_EMPTY)


def _counts_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _completed(
    entry: dict[str, Any], images: dict[int, CocoImage]
) -> tuple[dict[str, Any], list[tuple[Problem, str]]]:
    """An annotation with an id, with the keys that hand-made files leave out, and which ones it lacked.

    Area and box stay absent where image or mask, from which they follow, are faulty.
    """
    absent = [problem for key, problem in _ABSENT.items() if key not in entry]
    if not absent:
        return entry, []
    entry = {"iscrowd": 0, **entry}
    image = images.get(entry["image_id"]) if _is_id(entry.get("image_id")) else None
    if image is not None and not {"area", "bbox"} <= entry.keys():
        try:
            area, box = area_and_box(entry.get("segmentation"), image.height, image.width)
            entry = {"area": area, "bbox": box, **entry}
        except SegmentationError:
            pass
    return entry, [(problem, str(entry["id"])) for problem in absent]


_ABSENT = {"bbox": Problem.BOX_ABSENT, "area": Problem.AREA_ABSENT, "iscrowd": Problem.CROWD_ABSENT}


def _annotation_problems(
    entry: dict[str, Any], category_ids: set[int], images: dict[int, CocoImage]
) -> list[tuple[Problem, str]]:
    """Problems of one annotation that `_completed` gave, each with the name to report."""
    label = str(entry["id"])
    found: list[tuple[Problem, str]] = []
    if entry["id"] == 0:
        found.append((Problem.ANNOTATION_ID_ZERO, label))
    if not _is_id(entry.get("category_id")) or entry["category_id"] not in category_ids:
        found.append((Problem.CATEGORY_UNKNOWN, f"{label} (category {entry.get('category_id')!r:.30})"))
    if not _is_number(entry.get("area", 0)):
        found.append((Problem.AREA_FAULTY, label))
    if entry.get("iscrowd") not in (0, 1):
        found.append((Problem.CROWD_FAULTY, label))
    elif entry["iscrowd"]:
        found.append((Problem.CROWD, label))
    box = entry.get("bbox")
    if "bbox" in entry and (not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box))):
        found.append((Problem.BOX_FAULTY, label))
        box = None
    image = images.get(entry["image_id"]) if _is_id(entry.get("image_id")) else None
    if image is None:
        found.append((Problem.IMAGE_UNKNOWN, f"{label} (image {entry.get('image_id')!r:.30})"))
        return found
    if fault := mask_fault(entry.get("segmentation"), image.height, image.width):
        found.append((fault.problem, f"{label} ({fault.detail})"))
    if box is not None and _is_empty(box, entry.get("area"), image):
        found.append((Problem.BOX_EMPTY, label))
    return found


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf


def _is_empty(box: list[float], area: Any, image: CocoImage) -> bool:
    """Whether mmdet's CocoDataset drops the annotation, by the same rule."""
    x, y, width, height = box
    outside = min(x + width, image.width) <= max(x, 0) or min(y + height, image.height) <= max(y, 0)
    return outside or width < 1 or height < 1 or (_is_number(area) and area <= 0)


def _add_usage(data: CocoData, findings: Findings) -> None:
    """Classes and images that have no usable instance; silent for unlabelled data."""
    if not data.usable:
        return
    for name, count in data.class_counts(data.images).items():
        if count == 0:
            findings.add(Problem.CATEGORY_UNUSED, name)
    for image in data.images:
        if not data.instances(image.id):
            findings.add(Problem.IMAGE_WITHOUT_INSTANCE, image.file_name)
