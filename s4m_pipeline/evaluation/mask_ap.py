"""COCO mask average precision."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from s4m_cache.segmentation import encode
from s4m_pipeline.data.coco import CocoData

_AREAS = ("all", "small", "medium", "large")
_MAX_DETECTIONS = 100


@dataclass(frozen=True)
class MaskAP:
    """Mask AP in percent, over IoU 0.50 to 0.95 unless named otherwise; None without objects."""

    AP: float | None
    AP50: float | None
    AP75: float | None
    AP_small: float | None
    """Objects below 32 x 32 pixels."""
    AP_medium: float | None
    AP_large: float | None
    """Objects from 96 x 96 pixels."""
    per_class: dict[str, float | None]
    """AP by class name, in label order."""
    images: int
    instances: int
    """Usable ground-truth instances."""
    predictions: int
    backend: str
    """Package that computed it."""


def mask_ap(truth: CocoData, predictions: Sequence[dict[str, Any]], *, backend: str | None = None) -> MaskAP:
    """Compare predicted with true masks as COCO does.

    Args:
        truth: the annotated images.
        predictions: COCO results with `image_id`, `category_id`, `score` and `segmentation` (compressed RLE).
        backend: "faster_coco_eval" or "pycocotools"; None takes the faster one where it is installed.
    """
    backend = backend or ("faster_coco_eval" if find_spec("faster_coco_eval") else "pycocotools")
    precision_TRKAM, thresholds = _precision(truth, predictions, backend)

    def mean(area: str = "all", iou: float | None = None, label: int | None = None) -> float | None:
        chosen = precision_TRKAM[..., _AREAS.index(area), -1]
        if iou is not None:
            chosen = chosen[np.isclose(thresholds, iou)]
        if label is not None:
            chosen = chosen[:, :, label]
        chosen = chosen[chosen > -1]
        return round(100 * float(chosen.mean()), 4) if chosen.size else None

    return MaskAP(
        AP=mean(),
        AP50=mean(iou=0.50),
        AP75=mean(iou=0.75),
        AP_small=mean("small"),
        AP_medium=mean("medium"),
        AP_large=mean("large"),
        per_class={category.name: mean(label=category.label) for category in truth.categories},
        images=len(truth.images),
        instances=len(truth.usable),
        predictions=len(predictions),
        backend=backend,
    )


def coco_results(
    image_id: int, image_hw_px: tuple[int, int], category_ids: Sequence[int], instances: Any
) -> list[dict[str, Any]]:
    """Predicted instances of one image as COCO results.

    Args:
        image_hw_px: height and width of the image.
        category_ids: COCO id of each label.
        instances: mapping with `labels` (N,), `scores` (N,) and `masks` (N packed ones).
    """
    columns = instances["labels"].tolist(), instances["scores"].tolist()
    return [
        {"image_id": image_id, "category_id": category_ids[label], "score": score, "segmentation": rle}
        for label, score, rle in zip(*columns, encode(instances["masks"], *image_hw_px), strict=True)
    ]


def _precision(
    truth: CocoData, predictions: Sequence[dict[str, Any]], backend: str
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (IoU thresholds, recalls, classes, areas, detection limits), -1 where undefined."""
    thresholds = np.linspace(0.5, 0.95, 10)
    if not predictions:
        # Neither package accepts an empty list. Precision is 0 for classes with objects, else undefined.
        counts = truth.class_counts(truth.images)
        has_objects_K = np.array([counts[category.name] > 0 for category in truth.categories])
        shape = (10, 101, len(has_objects_K), len(_AREAS), 1)
        return np.where(has_objects_K[:, None, None], 0.0, -1.0) * np.ones(shape), thresholds
    evaluation = coco_evaluation(truth, predictions, backend, _AREAS)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    return evaluation.eval["precision"], np.asarray(evaluation.params.iouThrs)


def coco_evaluation(
    truth: CocoData, predictions: Sequence[dict[str, Any]], backend: str, areas: Sequence[str]
) -> Any:
    """A package's `COCOeval` that has matched predictions with objects, and accumulated nothing yet.

    Args:
        truth: the annotated images.
        predictions: COCO results, at least one.
        backend: "faster_coco_eval" or "pycocotools".
        areas: which of "all", "small", "medium" and "large" objects to match.
    """
    if backend == "faster_coco_eval":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # both packages print their progress
        coco = COCO()
        coco.dataset = _as_coco_document(truth)
        coco.createIndex()
        # Both packages write into what they are given.
        evaluation = COCOeval(coco, coco.loadRes([dict(prediction) for prediction in predictions]), "segm")
        ranges = dict(zip(evaluation.params.areaRngLbl, evaluation.params.areaRng, strict=True))
        evaluation.params.areaRng = [ranges[name] for name in areas]
        evaluation.params.areaRngLbl = list(areas)
        evaluation.params.maxDets = [_MAX_DETECTIONS]
        evaluation.params.catIds = [category.id for category in truth.categories]
        evaluation.evaluate()
    return evaluation


def _as_coco_document(truth: CocoData) -> dict[str, Any]:
    """Usable objects and crowds, with ids from 1: COCOeval's matches are ids, with 0 for none."""
    annotations = [
        entry
        for image in truth.images
        for entry in truth.annotations.get(image.id, [])
        if entry["iscrowd"] or entry["id"] in truth.usable
    ]
    return {
        "images": [{"id": image.id, "width": image.width, "height": image.height} for image in truth.images],
        "annotations": [{**entry, "id": place} for place, entry in enumerate(annotations, start=1)],
        "categories": [{"id": category.id, "name": category.name} for category in truth.categories],
    }
