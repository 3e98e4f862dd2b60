"""Unlabelled images for the gallery: which ones, and what teacher, SAM 2 and annotators drew on them.

N instances of an image, M annotated objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheError
from cache.generation import Generation
from cache.reader import CacheReader
from cache.records import ImageLabels, Instances
from s4m_pipeline.data.coco import CocoData, CocoImage
from s4m_pipeline.data.images import ImageError, read_rgb
from s4m_pipeline.data.unlabeled import UnlabeledImages
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.evaluation.pseudo_label_quality import LabelledMasks, same_class_iou
from s4m_pipeline.report.pictures import Pixels, data_uri, grid_size, outline

PHOTO_SIDE_PX = 640
MAX_PHOTO_BYTES = 3_600_000
"""All photos of the gallery together, before they are written as text."""
MAX_OUTLINE_CHARS = 3_000_000
"""All outlines of the gallery together."""
_PRELOAD_BYTES = 64_000_000
MAX_GENERATIONS = 3
MAX_INSTANCES = 40
"""Drawn in an image, the most confident ones."""


class Source(NamedTuple):
    """Where the images of a cache come from."""

    unlabeled: UnlabeledImages
    truth: CocoData | None


class Pen(NamedTuple):
    """Draws the outlines of an image's masks, together in a limited length."""

    max_chars: int

    def outlines(self, masks_NHW: NDArray[np.bool_]) -> list[str]:
        """The path of each mask, as `outline`; each may have its share, or 60 characters if that is less."""
        share = max(60, self.max_chars // max(1, len(masks_NHW)))
        return [outline(mask, share) for mask in masks_NHW]


@dataclass(frozen=True)
class Gallery:
    """Photos, and the labels of each generation on them; all plain values but for the dataclasses."""

    classes: list[str]
    generations: list[int] = field(default_factory=list)
    """Numbers, the newest first."""
    num_images: int = 0
    """Labelled images that the gallery was chosen from."""
    num_worst: int = 0
    """How many of the gallery's images are those of largest disagreement; the others are spread."""
    images: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def build_gallery(generations: Sequence[Generation], source: Source, count: int) -> Gallery:
    """Choose images by the newest generation and draw what the last `MAX_GENERATIONS` say about them.

    Args:
        generations: those that may be shown, of the same classes, oldest first.
        count: images at most; unreadable ones are named and left out.

    Raises:
        CacheError: if labels are damaged.
    """
    shown = list(generations[-MAX_GENERATIONS:])
    classes = list(shown[-1].spec.classes)
    readers = {
        generation.number: CacheReader(generation, preload_bytes=_PRELOAD_BYTES)
        for generation in reversed(shown)
    }
    try:
        ids, num_worst = choose(*disagreements(readers[shown[-1].number]), count)
        by_id = {image.id: image for image in source.unlabeled.images}
        pen = Pen(MAX_OUTLINE_CHARS // (count * (2 * len(shown) + 1)))
        drawn, unreadable = [], []
        for image in (by_id[image_id] for image_id in ids if image_id in by_id):
            try:
                pixels, _ = read_rgb(image.path)
            except ImageError as error:
                unreadable.append(f"{image.file_name} ({error.detail})")
                continue
            drawn.append(_entry(image, pixels, readers, source.truth, MAX_PHOTO_BYTES // count, pen))
        total = len(readers[shown[-1].number])
    finally:
        for reader in readers.values():
            reader.close()
    return Gallery(classes, list(readers), total, num_worst, drawn, unreadable)


def disagreements(reader: CacheReader) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Image ids, and for each the mean of 1 - IoU of teacher's and refined masks; 0 without instances."""
    ids, counts = reader.column("image_id"), reader.instance_counts()
    differing = 1 - np.nan_to_num(reader.column("raw_iou").astype(np.float64), nan=1.0)
    owner = np.repeat(np.arange(ids.size), counts)
    sums = np.bincount(owner, differing, minlength=ids.size)
    return ids, sums / np.maximum(counts, 1)


def choose(ids: NDArray[np.int64], disagreement: NDArray[np.float64], count: int) -> tuple[list[int], int]:
    """Half of `count` ids by falling disagreement, half spread evenly over the ranks of the others.

    Returns:
        The ids by falling disagreement, and how many of them are of the first half.
    """
    ranked = ids[np.lexsort((ids, -disagreement))].tolist()
    if len(ranked) <= count:
        return ranked, len(ranked)
    num_worst = -(-count // 2)
    others = ranked[num_worst:]
    places = np.linspace(0, len(others) - 1, count - num_worst).round().astype(int)
    return ranked[:num_worst] + [others[place] for place in places], num_worst


def _entry(
    image: CocoImage,
    pixels: Pixels,
    readers: dict[int, CacheReader],
    truth: CocoData | None,
    max_bytes: int,
    pen: Pen,
) -> dict[str, Any]:
    frame = grid_size(*pixels.shape[:2])
    objects = None if truth is None else _objects_of(truth, image)
    labels = {str(number): _labels(reader, image.id, objects, pen) for number, reader in readers.items()}
    return {
        "name": image.file_name,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "frame": frame,
        "photo": data_uri(pixels, side_px=PHOTO_SIDE_PX, max_bytes=max_bytes),
        "labels": labels,
        "truth": None if objects is None else _drawn_objects(objects, pen),
    }


def _objects_of(truth: CocoData, image: CocoImage) -> LabelledMasks | None:
    known = next((other for other in truth.images if other.id == image.id), None)
    return None if known is None else truth_masks(truth, known)


def _drawn_objects(objects: LabelledMasks, pen: Pen) -> list[dict[str, Any]]:
    paths = pen.outlines(objects.masks[:MAX_INSTANCES])
    return [
        {"label": label, "path": path}
        for label, path in zip(objects.labels[:MAX_INSTANCES].tolist(), paths, strict=True)
    ]


def _labels(
    reader: CacheReader, image_id: int, objects: LabelledMasks | None, pen: Pen
) -> dict[str, Any] | None:
    """None where the generation has no labels of the image."""
    if image_id not in reader:
        return None
    labels = reader.read(image_id, raw=True)
    order = np.argsort(-labels.instances.scores, kind="stable")[:MAX_INSTANCES]
    return {
        "count": len(labels.instances),
        "instances": _instances(labels, labels.instances.select(order), objects, pen),
    }


def _instances(
    labels: ImageLabels, instances: Instances, objects: LabelledMasks | None, pen: Pen
) -> list[dict[str, Any]]:
    assert instances.raw_masks is not None  # asked for
    whole = (0, 0, labels.height, labels.width)
    before = LabelledMasks(instances.labels, instances.raw_masks.dense(whole))
    after = LabelledMasks(instances.labels, instances.masks.dense(whole))
    best: list[NDArray[np.float64]] | None = None
    if objects is not None and objects.masks.shape[1:] == (labels.height, labels.width):
        best = [same_class_iou(masks, objects).max(axis=1, initial=0.0) for masks in (before, after)]
    paths = [pen.outlines(masks.masks) for masks in (before, after)]
    return [
        {
            "label": int(instances.labels[i]),
            "score": float(instances.scores[i]),
            "iou": float(instances.raw_ious[i]),
            "expected": float(instances.pred_ious[i]),
            "truth": None if best is None else [float(ious[i]) for ious in best],
            "before": paths[0][i],
            "after": paths[1][i],
        }
        for i in range(len(instances))
    ]


def require_same_list(generation: Generation, unlabeled: UnlabeledImages) -> None:
    """Refuse images that are not those the labels were made for.

    Raises:
        CacheError: if the list of ids and file names is another one.
    """
    recorded = generation.spec.fingerprint.get("image names")
    if recorded is not None and recorded != unlabeled.digest:
        raise CacheError(
            f"{generation.path} was made for another list of images than {unlabeled.source} holds now"
        )
