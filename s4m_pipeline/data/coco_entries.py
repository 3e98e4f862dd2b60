"""The entries of a COCO JSON: each is checked, and becomes a typed record or one of the problems found."""

import hashlib
import json
import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4m_cache.limits import is_thin
from s4m_cache.segmentation import SegmentationError, long_polygons
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.findings import Findings, Problem
from s4m_pipeline.data.root import ImageRoot
from s4m_pipeline.data.segmentation import area_and_box, mask_faults

_LARGEST_ID = 2**63 - 1  # ids are stored as int64


@dataclass(frozen=True)
class Category:
    """A class: its id in the JSON (may be sparse), its name, and its contiguous `label` (0, 1, ... by id)."""

    id: int
    name: str
    label: int


@dataclass(frozen=True)
class CocoImage:
    """An image of a data set; sizes in pixels, `path` inside the image folder with links resolved."""

    id: int
    file_name: str
    width: int
    height: int
    path: Path


def unreadable(path: Path, error: OSError) -> UserError:
    """For a COCO JSON that the system does not let us read."""
    return UserError(f"{path}: cannot be read ({error.strerror}). Expected a COCO JSON file.")


def read_document(path: Path) -> tuple[dict[str, Any], str]:
    """A COCO JSON with its three lists, whose entries are not checked, and the SHA-256 of its bytes.

    Raises:
        UserError: not a readable JSON file with lists `images` and `categories`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}). {_advice(content, error)}") from error
    if not isinstance(document, dict):
        document = {}
    document.setdefault("annotations", [])  # absent in COCO's own files for images without labels
    wrong = [
        key for key in ("images", "categories", "annotations") if not isinstance(document.get(key), list)
    ]
    if wrong:
        raise UserError(
            f"{path}: not a COCO data set: expected an object with lists `images`, `categories` and "
            f"`annotations`; missing or not a list: {', '.join(wrong)}."
        )
    return document, hashlib.sha256(content).hexdigest()


def _advice(content: bytes, error: Exception) -> str:
    """What to do about a file that is not JSON, by what it looks like."""
    if content.startswith(b"PK\x03\x04"):
        return "It is a ZIP archive: unpack it, and give the JSON file in it."
    if content.lstrip().startswith(b"<"):
        return "It is XML (as of Pascal VOC or CVAT): export the labels as COCO JSON."
    if isinstance(error, UnicodeDecodeError):
        return (
            "Its text is not UTF-8, perhaps Latin-1 or Windows-1252: save it again with the encoding UTF-8."
        )
    if re.match(rb"\s*\d+( +-?[\d.]+){4,}\s*(\n|$)", content):
        return "It looks like a YOLO label file: export the labels of all images as one COCO JSON."
    return "The file may be incomplete: copy or export it again."


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_ID


def parse_categories(entries: list[Any], findings: Findings) -> tuple[Category, ...]:
    """The classes in id order; entries with errors are left out and become findings."""
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_id(entry.get("id")) or not _is_text(entry.get("name")):
            findings.add(Problem.CATEGORY_FAULTY, f"categories[{index}]")
        elif any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in entry["name"]):
            findings.add(Problem.CATEGORY_NAME_FAULTY, entry["name"])
        elif entry["id"] in names:
            findings.add(Problem.CATEGORY_ID_TWICE, entry["id"])
        elif entry["name"] in names.values():
            findings.add(Problem.CATEGORY_NAME_TWICE, entry["name"])
        else:
            names[entry["id"]] = entry["name"]
    if not names:
        findings.add(Problem.CATEGORY_NONE, "categories")
    if list(names) != sorted(names):
        findings.add(Problem.CATEGORY_ORDER, f"first is {next(iter(names))}, lowest is {min(names)}")
    return tuple(Category(id=i, name=names[i], label=label) for label, i in enumerate(sorted(names)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def parse_images(
    entries: list[Any], root: ImageRoot, max_pixels: int, findings: Findings
) -> dict[int, CocoImage]:
    """The images by id; entries with errors are left out and become findings."""
    images: dict[int, CocoImage] = {}
    paths: set[Path] = set()
    for index, entry in enumerate(entries):
        if not is_image(entry):
            findings.add(Problem.IMAGE_FAULTY, f"images[{index}]")
            continue
        name, width, height = entry["file_name"], entry["width"], entry["height"]
        path = root.locate(name)
        if path is None:
            backslash = " (write / instead of \\)" if "\\" in name else ""
            findings.add(Problem.FILE_OUTSIDE, f"{name}{backslash}")
        elif width * height > max_pixels:
            findings.add(Problem.SIZE_OVER_LIMIT, f"{name} (JSON: {width} x {height})")
        elif is_thin(width, height):
            findings.add(Problem.SIZE_THIN, f"{name} (JSON: {width} x {height})")
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


def is_image(entry: Any) -> bool:
    """Whether an entry of `images` has an id, a name and a size."""
    return (
        isinstance(entry, dict)
        and _is_id(entry.get("id"))
        and _is_text(entry.get("file_name"))
        and all(type(entry.get(side)) is int and entry[side] > 0 for side in ("width", "height"))
    )


def parse_annotations(
    entries: list[Any], categories: tuple[Category, ...], images: dict[int, CocoImage], findings: Findings
) -> tuple[dict[int, list[dict[str, Any]]], set[int]]:
    """The annotations by image id, and the ids of those used for training; see `CocoData`."""
    category_ids = {category.id for category in categories}
    by_id: dict[int, dict[str, Any]] = {}
    usable: set[int] = set()
    first_by_box: dict[tuple[Any, ...], dict[str, Any]] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_id(entry.get("id")):
            findings.add(Problem.ANNOTATION_FAULTY, f"annotations[{index}]")
        elif entry["id"] in by_id:
            findings.add(Problem.ANNOTATION_ID_TWICE, entry["id"])
        else:
            entry, absent = _completed(entry, images)
            found = [*absent, *_annotation_problems(entry, category_ids, images)]
            for problem, name in found:
                findings.add(problem, name)
            problems = {problem for problem, _ in found}
            if problems.isdisjoint(_UNUSABLE) and _repeats(entry, first_by_box):
                findings.add(Problem.OBJECT_TWICE, entry["id"])
                problems.add(Problem.OBJECT_TWICE)
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
            Problem.INSTANCE_NONE, f"of {len(entries)}: {_counts_text(counts)}; the rest have errors"
        )
    elif not entries:
        findings.add(Problem.ANNOTATION_NONE, "annotations")
    return annotations, usable


_UNUSABLE = (
    Problem.CROWD,
    Problem.BOX_EMPTY,
    Problem.MASK_EMPTY,
    Problem.BOX_MASK_APART,
    Problem.OBJECT_TWICE,
)


def _repeats(entry: dict[str, Any], first_by_box: dict[tuple[Any, ...], dict[str, Any]]) -> bool:
    """Whether an annotation equals the first one with the same image, category and box."""
    box = entry.get("bbox")
    key = (entry.get("image_id"), entry.get("category_id"), *(box if isinstance(box, list) else [box]))
    try:
        first = first_by_box.setdefault(key, entry)
        return first is not entry and bool(first["segmentation"] == entry["segmentation"])
    except (KeyError, TypeError):  # an entry with errors
        return False


def _counts_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _completed(
    entry: dict[str, Any], images: dict[int, CocoImage]
) -> tuple[dict[str, Any], list[tuple[Problem, str]]]:
    """Fill in missing keys of an annotation; returns it and a warning for each missing key.

    Area and box are computed from the mask, and remain missing where image or mask are faulty.
    """
    if _is_number(entry.get("area")) and entry["area"] <= 0:
        entry = {key: value for key, value in entry.items() if key != "area"}
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
    """Problems of an annotation after `_completed`, each with the name to report."""
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
    if box is not None and _is_empty(box, image):
        found.append((Problem.BOX_EMPTY, label))
        box = None
    faults = mask_faults(entry.get("segmentation"), box, image.height, image.width)
    found += [(fault.problem, f"{label} ({fault.detail})") for fault in faults]
    return found


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf


def _is_empty(box: list[float], image: CocoImage) -> bool:
    """Whether mmdet's CocoDataset drops the annotation because of its box (same rule)."""
    x, y, width, height = box
    outside = min(x + width, image.width) <= max(x, 0) or min(y + height, image.height) <= max(y, 0)
    return outside or width < 1 or height < 1
