"""Pseudo-labels to COCO JSON and back: RLE and polygons, category ids kept, one annotation per instance."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from cache.atomic import atomic_path
from cache.errors import CacheError, abridged, disk_error, reading
from cache.fingerprint import file_hash
from cache.generation import Generation, GenerationSpec
from cache.generations import begin, generations, publish
from cache.limits import MAX_PIXELS, RAISE_LIMIT
from cache.masks import Masks
from cache.reader import CacheReader
from cache.records import ImageLabels, Instances
from cache.segmentation import SegmentationError, decode, long_polygons
from cache.sharding import ShardSpec
from cache.writer import ShardWriter


def export_coco(reader: CacheReader, path: Path, file_names: Mapping[int, str] | None = None) -> int:
    """Write a generation's refined masks as COCO instance annotations with compressed RLE; returns how many.

    Each has the extra fields `score`, `pred_iou` (null when unknown) and `raw_iou`. Masks without pixels are
    left out.

    Args:
        reader: the generation.
        path: the JSON file, replaced if it is there.
        file_names: an image's file by its id; other images have `default_file_name`.

    Raises:
        CacheError: if the disk refuses.
        DamagedError: if labels are damaged.
    """
    spec, names = reader.generation.spec, file_names or {}
    categories = [
        {"id": id_, "name": name} for id_, name in zip(spec.category_ids, spec.classes, strict=True)
    ]
    images: list[dict[str, Any]] = []
    num_annotations = 0
    try:
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            # One annotation at a time: a whole data set's list would need gigabytes.
            file.write(f'{{"info":{json.dumps({"description": f"pseudo-labels, {reader.generation.name}"})},')
            file.write(f'"categories":{json.dumps(categories)},"annotations":[')
            for image_id in reader.image_ids.tolist():
                labels = reader.read(image_id)
                name = names.get(image_id, default_file_name(image_id))
                size = {"height": labels.height, "width": labels.width}
                images.append({"id": image_id, "file_name": name, **size})
                for annotation in _annotations(labels, spec.category_ids):
                    num_annotations += 1
                    separator = ",\n" if num_annotations > 1 else "\n"
                    file.write(separator + json.dumps({"id": num_annotations, **annotation}))
            file.write(f'\n],"images":{json.dumps(images)}}}\n')
    except OSError as error:
        raise disk_error(path, 2 * reader.size_bytes, error) from error
    return num_annotations


def default_file_name(image_id: int) -> str:
    """What an image is called whose file is not known: its id in twelve digits and `.jpg`, as in COCO."""
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
        raise CacheError(f"{path} is not there: expected a COCO file with `images`") from None
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{path}: no `images` with `id` and `file_name`: {error!r}") from None


def _annotations(labels: ImageLabels, category_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    instances = labels.instances
    for m, (y0, x0, y1, x1) in enumerate(instances.masks.boxes.tolist()):
        if y1 == y0:
            continue
        mask = instances.masks.select(np.array([m])).dense((0, 0, labels.height, labels.width))[0]
        rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        yield {
            "image_id": labels.image_id,
            "category_id": category_ids[instances.labels[m]],
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": int(instances.masks.areas[m]),
            "iscrowd": 0,
            "score": float(instances.scores[m]),
            "pred_iou": _number(instances.pred_ious[m]),
            "raw_iou": _number(instances.raw_ious[m]),
        }


def _number(value: np.float32) -> float | None:
    return None if math.isnan(value) else float(value)


def import_coco(
    path: Path, root: Path, number: int | None = None, note: Callable[[str], None] = lambda text: None
) -> Generation:
    """Make a published generation of a COCO file's annotations, whoever made them. Resumes after a kill.

    Args:
        path: a COCO instance file; crowds, masks without pixels and polygons of fewer than 3 points beside
            others are left out.
        root: the cache's folder.
        number: which generation; by default the one that this file went to before, else a new one.
        note: told how many annotations lost a polygon.

    Raises:
        CacheError: if the file is faulty, the generation holds anything else, or the disk refuses.
    """
    source = read_coco(path)
    spec = GenerationSpec(
        image_ids=list(source.images),
        classes=source.classes,
        category_ids=source.category_ids,
        num_shards=1,
        fingerprint={"imported_from": path.name, "file": file_hash(path)},
    )
    known = generations(root)
    made_of_it = [generation.number for generation in known if not generation.spec.differences(spec)]
    following = known[-1].number + 1 if known else 1
    generation = begin(root, spec, number or max(made_of_it, default=following))
    with ShardWriter(generation, ShardSpec(1, 1)) as writer:
        for image_id in writer.pending.tolist():
            writer.append(source.labels(image_id))
    publish(generation)
    if num_short := source.num_part_short():
        note(f"{path}: dropped polygons of fewer than 3 points beside others; annotations: {num_short}")
    return generation


@dataclass(frozen=True)
class CocoFile:
    """A checked COCO instance file, ready to be turned into labels.

    Attributes:
        classes: category names, ordered by category id; a label is an index into them.
        category_ids: their ids.
        images: height and width by image id.
        annotations: by image id, without crowds.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: dict[int, tuple[int, int]]
    annotations: dict[int, list[dict[str, Any]]]

    def num_part_short(self) -> int:
        """Annotations, their segmentations being sound, with polygons that `labels` drops."""
        segmentations = [entry["segmentation"] for found in self.annotations.values() for entry in found]
        return sum(isinstance(s, list) and len(long_polygons(s)) < len(s) for s in segmentations)

    def labels(self, image_id: int) -> ImageLabels:
        """The annotations of one image as labels; those without pixels are left out. Score 1 where none is
        given.

        Raises:
            CacheError: naming the annotation whose segmentation cannot be read.
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
    """Read a COCO instance file and check all of it but the segmentations.

    Raises:
        CacheError: listing what is wrong: not JSON, missing fields, ids given twice, unknown images or
        categories.
    """
    try:
        with reading(path):
            body = json.loads(path.read_bytes())
        categories = {int(entry["id"]): str(entry["name"]) for entry in body["categories"]}
        images = {int(e["id"]): (int(e["height"]), int(e["width"])) for e in body["images"]}
        annotations = [entry for entry in body["annotations"] if not entry.get("iscrowd", 0)]
        owners = np.array([entry["image_id"] for entry in annotations], np.int64)
        kinds = np.array([entry["category_id"] for entry in annotations], np.int64)
    except FileNotFoundError:
        raise CacheError(f"{path} is not there: expected a COCO instance file") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CacheError(
            f"{path}: not a COCO instance file (categories, images with height and width, annotations with "
            f"image_id and category_id): {type(error).__name__} {error}"
        ) from None
    faults = _faults(body, images, categories, owners, kinds)
    if faults:
        raise CacheError(f"{path}: " + "; ".join(faults))
    ids = tuple(sorted(categories))
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation, owner in zip(annotations, owners.tolist(), strict=True):
        by_image.setdefault(owner, []).append(annotation)
    return CocoFile(tuple(categories[id_] for id_ in ids), ids, images, by_image)


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
            faults.append(f"{len(body[name]) - count} {name} have an id that another one has")
    sizes = [id_ for id_, (h, w) in images.items() if h < 1 or w < 1 or h * w > MAX_PIXELS]
    if sizes:
        allowed = f"1 to {MAX_PIXELS} pixels; {RAISE_LIMIT}"
        faults.append(f"images without a sensible size: {abridged(sizes)} ({allowed})")
    if (strangers := np.setdiff1d(owners, list(images))).size:
        faults.append(f"annotations of images that are not listed: {abridged(strangers.tolist())}")
    if (strangers := np.setdiff1d(kinds, list(categories))).size:
        faults.append(f"annotations of categories that are not listed: {abridged(strangers.tolist())}")
    return faults


def decode_segmentation(
    segmentation: Any, height: int, width: int, annotation_id: Any = None
) -> NDArray[np.bool_]:
    """A COCO polygon list, compressed or plain RLE as bool [height, width].

    Raises:
        CacheError: naming the annotation and the fault.
    """
    try:
        return decode(segmentation, height, width)
    except SegmentationError as error:
        raise CacheError(
            f"annotation {annotation_id}: segmentation cannot be read: {error}. Expected polygons "
            "[[x, y, ...], ...] or RLE with size [height, width] and counts. Mend or remove it"
        ) from None
