"""Pseudo-labels as COCO JSON, written and read: one annotation per instance, category ids kept."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4m_cache.atomic import atomic_path
from s4m_cache.errors import CacheError, abridged, disk_error, reading
from s4m_cache.limits import MAX_PIXELS, RAISE_LIMIT
from s4m_cache.masks import Masks
from s4m_cache.reader import CacheReader
from s4m_cache.records import ImageLabels, Instances
from s4m_cache.segmentation import SegmentationError, decode, encode, long_polygons


@dataclass(frozen=True)
class LabeledImages:
    """Images with their labels, read one image at a time: what can be written in any format.

    Attributes:
        classes: names by label.
        category_ids: their ids in COCO JSON.
        file_names: by image id, in the order in which images are read.
        read: the labels of an image by its id.
    """

    classes: Sequence[str]
    category_ids: Sequence[int]
    file_names: Mapping[int, str]
    read: Callable[[int], ImageLabels]

    @classmethod
    def of(cls, reader: CacheReader, file_names: Mapping[int, str] | None = None) -> "LabeledImages":
        """A generation; an image without a name here or in the generation gets `default_file_name`."""
        spec, known = reader.generation.spec, file_names or reader.generation.file_names
        names = {id_: known.get(id_, default_file_name(id_)) for id_ in reader.image_ids.tolist()}
        return cls(spec.classes, spec.category_ids, names, reader.read)

    def __len__(self) -> int:
        return len(self.file_names)

    def __iter__(self) -> Iterator[tuple[str, ImageLabels]]:
        return ((name, self.read(image_id)) for image_id, name in self.file_names.items())


def export_coco(reader: CacheReader, path: Path, file_names: Mapping[int, str] | None = None) -> int:
    """Write the refined masks of a generation as COCO instance annotations with compressed RLE.

    Args:
        reader: the generation.
        path: the JSON file; an existing one is replaced.
        file_names: file name by image id; by default those of the generation, or else `default_file_name`.

    Returns:
        Number of annotations.

    Raises:
        CacheError: if writing fails.
        DamagedError: if labels are damaged.
    """
    description = f"pseudo-labels, {reader.generation.name}"
    try:
        return write_coco(LabeledImages.of(reader, file_names), path, description)
    except OSError as error:
        raise disk_error(path, 2 * reader.size_bytes, error) from error


def write_coco(labeled: LabeledImages, path: Path, description: str, *, scored: bool = True) -> int:
    """Write labels as COCO instance annotations with compressed RLE; returns their number.

    Ignored instances are crowd regions (`iscrowd` 1), which COCO counts neither as objects nor as background.
    Empty masks are left out.

    Args:
        labeled: the images and their labels.
        path: the JSON file; an existing one is replaced.
        description: of the data set.
        scored: add the fields `score`, `pred_iou` (null if unknown) and `raw_iou`.

    Raises:
        OSError: as the file system reports it.
    """
    categories = [
        {"id": id_, "name": name} for id_, name in zip(labeled.category_ids, labeled.classes, strict=True)
    ]
    images: list[dict[str, Any]] = []
    num_annotations = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        # Written one annotation at a time: the list of a whole data set would need gigabytes.
        file.write(f'{{"info":{json.dumps({"description": description})},')
        file.write(f'"categories":{json.dumps(categories)},"annotations":[')
        for name, labels in labeled:
            size = {"height": labels.height, "width": labels.width}
            images.append({"id": labels.image_id, "file_name": name, **size})
            for annotation in _annotations(labels, labeled.category_ids, scored):
                num_annotations += 1
                separator = ",\n" if num_annotations > 1 else "\n"
                file.write(separator + json.dumps({"id": num_annotations, **annotation}))
        file.write(f'\n],"images":{json.dumps(images)}}}\n')
    return num_annotations


def default_file_name(image_id: int) -> str:
    """The file name of an image if none is given: its id in twelve digits and `.jpg`, as in COCO."""
    return f"{image_id:012d}.jpg"


def read_file_names(path: Path) -> dict[int, str]:
    """The file names of a COCO file's images by id.

    Raises:
        CacheError: if it is not such a file.
    """
    try:
        with reading(path):
            images = json.loads(path.read_bytes())["images"]
        return {int(entry["id"]): str(entry["file_name"]) for entry in images}
    except FileNotFoundError:
        raise CacheError(f"{path}: no such file. Expected a COCO file with `images`") from None
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{path}: no `images` with `id` and `file_name`: {error!r}") from None


def _annotations(labels: ImageLabels, category_ids: Sequence[int], scored: bool) -> Iterator[dict[str, Any]]:
    instances = labels.instances
    segmentations = encode(instances.masks, labels.height, labels.width)
    boxes = instances.masks.boxes.tolist()
    for m, ((y0, x0, y1, x1), segmentation) in enumerate(zip(boxes, segmentations, strict=True)):
        if y1 == y0:
            continue
        annotation = {
            "image_id": labels.image_id,
            "category_id": category_ids[instances.labels[m]],
            "segmentation": segmentation,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": int(instances.masks.areas[m]),
            "iscrowd": int(instances.ignored[m]),
        }
        if scored:
            annotation["score"] = float(instances.scores[m])
            annotation["pred_iou"] = _number(instances.pred_ious[m])
            annotation["raw_iou"] = _number(instances.raw_ious[m])
        yield annotation


def _number(value: np.float32) -> float | None:
    return None if math.isnan(value) else float(value)


@dataclass(frozen=True)
class CocoFile:
    """A validated COCO instance file.

    Attributes:
        classes: category names, ordered by category id; a label is an index into them.
        category_ids: their ids.
        images: height and width by image id.
        file_names: by image id.
        annotations: by image id, without crowds.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: dict[int, tuple[int, int]]
    file_names: dict[int, str]
    annotations: dict[int, list[dict[str, Any]]]

    @property
    def labeled(self) -> LabeledImages:
        """What it holds, for a different format."""
        return LabeledImages(self.classes, self.category_ids, self.file_names, self.labels)

    def num_part_short(self) -> int:
        """Number of annotations with polygons that `labels` drops; all segmentations must be valid."""
        segmentations = [entry["segmentation"] for found in self.annotations.values() for entry in found]
        return sum(isinstance(s, list) and len(long_polygons(s)) < len(s) for s in segmentations)

    def labels(self, image_id: int) -> ImageLabels:
        """The annotations of one image as labels, without empty masks; the score is 1 where none is given.

        Raises:
            CacheError: naming the annotation whose segmentation is malformed.
        """
        height, width = self.images[image_id]
        masks, kept = [], []
        for annotation in self.annotations.get(image_id, []):
            mask = decode_segmentation(annotation.get("segmentation"), height, width, annotation.get("id"))
            if mask.any():
                masks.append(Masks.from_dense(mask[None]))
                kept.append(annotation)
        together = Masks(
            np.concatenate([Masks.empty(0).boxes, *(mask.boxes for mask in masks)]),
            np.concatenate([Masks.empty(0).bits, *(mask.bits for mask in masks)]),
        )
        instances = Instances.create(
            masks=together,
            labels=[self.category_ids.index(annotation["category_id"]) for annotation in kept],
            scores=[annotation.get("score", 1.0) for annotation in kept],
            pred_ious=[np.nan if (v := annotation.get("pred_iou")) is None else v for annotation in kept],
        )
        return ImageLabels(image_id=image_id, height=height, width=width, instances=instances)


def read_coco(path: Path) -> CocoFile:
    """Read a COCO instance file and validate all of it except the segmentations.

    Raises:
        CacheError: listing all faults: not JSON, missing fields, duplicate ids, unknown images or categories.
    """
    try:
        with reading(path):
            body = json.loads(path.read_bytes())
        categories = {int(entry["id"]): str(entry["name"]) for entry in body["categories"]}
        images = {int(e["id"]): (int(e["height"]), int(e["width"])) for e in body["images"]}
        file_names = {int(e["id"]): str(e["file_name"]) for e in body["images"]}
        annotations = [entry for entry in body["annotations"] if not entry.get("iscrowd", 0)]
        owners = np.array([entry["image_id"] for entry in annotations], np.int64)
        kinds = np.array([entry["category_id"] for entry in annotations], np.int64)
        np.array([*images, *categories], np.int64)  # as they will be stored
    except FileNotFoundError:
        raise CacheError(f"{path}: no such file. Expected a COCO instance file") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise CacheError(
            f"{path}: not a COCO instance file (categories, images with file_name, height and width, "
            f"annotations with image_id and category_id): {type(error).__name__} {error}"
        ) from None
    faults = _faults(body, images, categories, owners, kinds)
    if faults:
        raise CacheError(f"{path}: " + "; ".join(faults))
    ids = tuple(sorted(categories))
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation, owner in zip(annotations, owners.tolist(), strict=True):
        by_image.setdefault(owner, []).append(annotation)
    return CocoFile(tuple(categories[id_] for id_ in ids), ids, images, file_names, by_image)


def _faults(
    body: dict[str, Any],
    images: dict[int, tuple[int, int]],
    categories: dict[int, str],
    owners: NDArray[np.int64],
    kinds: NDArray[np.int64],
) -> list[str]:
    faults = []
    if not categories or not images:
        faults.append(f"{len(categories)} categories, {len(images)} images")
    for name, count in (("images", len(images)), ("categories", len(categories))):
        if len(body[name]) != count:
            faults.append(f"{len(body[name]) - count} {name} with a duplicate id")
    sizes = [id_ for id_, (h, w) in images.items() if h < 1 or w < 1 or h * w > MAX_PIXELS]
    if sizes:
        allowed = f"expected 1 to {MAX_PIXELS} pixels; {RAISE_LIMIT}"
        faults.append(f"images with an invalid size: {abridged(sizes)} ({allowed})")
    if (unknown := np.setdiff1d(owners, list(images))).size:
        faults.append(f"annotations of images that are not listed: {abridged(unknown.tolist())}")
    if (unknown := np.setdiff1d(kinds, list(categories))).size:
        faults.append(f"annotations of categories that are not listed: {abridged(unknown.tolist())}")
    return faults


def decode_segmentation(
    segmentation: Any, height: int, width: int, annotation_id: Any = None
) -> NDArray[np.bool_]:
    """A COCO polygon list or RLE (compressed or not) as bool [height, width].

    Raises:
        CacheError: naming the annotation and the fault.
    """
    try:
        return decode(segmentation, height, width)
    except SegmentationError as error:
        raise CacheError(
            f"annotation {annotation_id}: malformed segmentation: {error}. Expected polygons "
            "[[x, y, ...], ...] or RLE with size [height, width] and counts. Fix or remove it"
        ) from None
