"""The gallery: choose unlabeled images, and draw the masks of teacher, SAM 2 and annotators on them.

N instances of an image, M annotated objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from s4m_cache.generation import Generation
from s4m_cache.masks import Masks
from s4m_cache.reader import CacheReader
from s4m_cache.records import ImageLabels, Instances
from s4m_pipeline.apps.report.pictures import Pixels, data_uri, grid_size, outline
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.images import ImageError, read_rgb
from s4m_pipeline.data.unlabeled import UnlabeledImages
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.evaluation.pseudo_label_quality import LabeledMasks, same_class_iou

PHOTO_SIDE_PX = 640
MAX_PHOTO_BYTES = 2_400_000
"""Total size of the gallery's photos, before base64 encoding."""
MAX_OUTLINE_CHARS = 2_000_000
"""Total length of the gallery's outlines."""
_PRELOAD_BYTES = 64_000_000
MAX_GENERATIONS = 3
MAX_INSTANCES = 40
"""Instances drawn per image, those of highest confidence."""


class Source(NamedTuple):
    """The images of a cache, and their ground truth."""

    unlabeled: UnlabeledImages
    truth: CocoData | None


class Pen(NamedTuple):
    """Draws the outlines of an image's masks with a limited total length."""

    max_chars: int

    def outlines(self, masks: Masks, height: int, width: int) -> list[str]:
        """The path of each mask (see `outline`), of at most `max_chars / N` or 60 characters."""
        limit = max(60, self.max_chars // max(1, len(masks)))
        return [outline(mask, limit) for mask in masks.each((0, 0, height, width))]


@dataclass(frozen=True)
class Gallery:
    """Photos and their labels in each generation, as plain values."""

    classes: list[str]
    generations: list[int] = field(default_factory=list)
    """Numbers, the newest first."""
    num_images: int = 0
    """Number of images that the gallery was chosen from."""
    num_worst: int = 0
    """Number of gallery images chosen for the largest disagreement; the rest are spread evenly."""
    images: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def build_gallery(generations: Sequence[Generation], source: Source, count: int) -> Gallery:
    """Choose images by the newest generation and draw their labels in the last `MAX_GENERATIONS`.

    Args:
        generations: published ones with equal classes, oldest first.
        count: largest number of images; unreadable ones are named and left out.

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
    """Image ids, and the mean of 1 - IoU of the teacher's and the refined masks of each; 0 without any."""
    differing = 1 - np.nan_to_num(reader.column("raw_iou").astype(np.float64), nan=1.0)
    return reader.column("image_id"), np.nan_to_num(reader.mean_per_image(differing))


def choose(ids: NDArray[np.int64], disagreement: NDArray[np.float64], count: int) -> tuple[list[int], int]:
    """Choose `count` ids: half with the largest disagreement, half spread evenly over the remaining ranks.

    Returns:
        The ids by falling disagreement, and the size of the first half.
    """
    ranked = ids[np.lexsort((ids, -disagreement))].tolist()
    if len(ranked) <= count:
        return ranked, len(ranked)
    num_worst = -(-count // 2)
    others = ranked[num_worst:]
    indices = np.linspace(0, len(others) - 1, count - num_worst).round().astype(int)
    return ranked[:num_worst] + [others[index] for index in indices], num_worst


def _entry(
    image: CocoImage,
    pixels: Pixels,
    readers: dict[int, CacheReader],
    truth: CocoData | None,
    max_bytes: int,
    pen: Pen,
) -> dict[str, Any]:
    frame = grid_size(*pixels.shape[:2])
    objects = None if truth is None else _true_objects(truth, image)
    labels = {str(number): _labels(reader, image.id, objects, pen) for number, reader in readers.items()}
    return {
        "name": image.file_name,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "frame": frame,
        "photo": data_uri(pixels, side_px=PHOTO_SIDE_PX, max_bytes=max_bytes),
        "labels": labels,
        "truth": None if objects is None else _drawn_objects(objects, pen, image),
    }


def _true_objects(truth: CocoData, image: CocoImage) -> LabeledMasks | None:
    """None without ground truth for the image, or with one for a different size."""
    known = next((other for other in truth.images if other.id == image.id), None)
    same = known is not None and (known.height, known.width) == (image.height, image.width)
    return truth_masks(truth, image) if same else None


def _drawn_objects(objects: LabeledMasks, pen: Pen, image: CocoImage) -> list[dict[str, Any]]:
    drawn = objects.masks.select(np.arange(len(objects.masks))[:MAX_INSTANCES])
    paths = pen.outlines(drawn, image.height, image.width)
    return [
        {"label": label, "path": path}
        for label, path in zip(objects.labels[:MAX_INSTANCES].tolist(), paths, strict=True)
    ]


def _labels(
    reader: CacheReader, image_id: int, objects: LabeledMasks | None, pen: Pen
) -> dict[str, Any] | None:
    """None if the generation has no labels for the image."""
    if image_id not in reader:
        return None
    labels = reader.read(image_id, raw=True)
    order = np.argsort(-labels.instances.scores, kind="stable")[:MAX_INSTANCES]
    return {
        "count": len(labels.instances),
        "instances": _instances(labels, labels.instances.select(order), objects, pen),
    }


def _instances(
    labels: ImageLabels, instances: Instances, objects: LabeledMasks | None, pen: Pen
) -> list[dict[str, Any]]:
    assert instances.raw_masks is not None  # read with raw=True
    kinds = (instances.raw_masks, instances.refined_masks)
    best: list[NDArray[np.float64]] | None = None
    if objects is not None:
        best = [
            same_class_iou(instances.labels, masks, objects.labels, objects.masks).max(axis=1, initial=0.0)
            for masks in kinds
        ]
    paths = [pen.outlines(masks, labels.height, labels.width) for masks in kinds]
    return [
        {
            "label": int(instances.labels[i]),
            "score": float(instances.scores[i]),
            "iou": float(instances.raw_ious[i]),
            "expected": float(instances.pred_ious[i]),
            "use_raw": bool(instances.use_raw[i]),
            "ignored": bool(instances.ignored[i]),
            "truth": None if best is None else [float(ious[i]) for ious in best],
            "before": paths[0][i],
            "after": paths[1][i],
        }
        for i in range(len(instances))
    ]
