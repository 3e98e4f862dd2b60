"""Segmentation quality and class accuracy of pseudo-labels (paper, supplement)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.masks import Masks, iou

MATCH_IOU = 0.5


@dataclass(frozen=True)
class LabelledMasks:
    """The instances of one image: N labels (int) and N masks (N, H, W) bool."""

    labels: NDArray[np.integer]
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class PseudoLabelQuality:
    """Quality of a set of pseudo-labels, in percent; NaN where there is nothing to average."""

    segmentation_quality: float
    """SQ: mean IoU of true positives (same class, IoU above one half, one prediction per object)."""
    class_accuracy: float
    """CA: true positives / predictions."""
    num_predictions: int
    num_objects: int
    mean_best_iou: float
    """Mean over predictions of the IoU with the best object of any class: no threshold hides a change."""


def pseudo_label_quality(
    predictions: Sequence[LabelledMasks], truths: Sequence[LabelledMasks]
) -> PseudoLabelQuality:
    """SQ and CA over images; `predictions[i]` (by falling score) and `truths[i]` belong to the same image."""
    matched: list[float] = []
    best: list[float] = []
    for predicted, truth in zip(predictions, truths, strict=True):
        of_any_class = mask_iou(predicted.masks, truth.masks)
        best += of_any_class.max(axis=1, initial=0.0).tolist()
        same_class = predicted.labels[:, None] == truth.labels[None]
        matched += match_iou(np.where(same_class, of_any_class, 0.0))
    num_predictions = sum(len(p.labels) for p in predictions)
    return PseudoLabelQuality(
        segmentation_quality=100 * float(np.mean(matched)) if matched else float("nan"),
        class_accuracy=100 * len(matched) / num_predictions if num_predictions else float("nan"),
        num_predictions=num_predictions,
        num_objects=sum(len(t.labels) for t in truths),
        mean_best_iou=100 * float(np.mean(best)) if best else float("nan"),
    )


def match_iou(ious: NDArray[np.float64]) -> list[float]:
    """IoUs of the matches above one half in (N, M), greedy by row (falling score); a column matches once."""
    free = ious.copy()
    matched = []
    for row in range(len(free)):
        if free.shape[1] and free[row].max() > MATCH_IOU:
            column = int(free[row].argmax())
            matched.append(float(free[row, column]))
            free[:, column] = 0.0
    return matched


def same_class_iou(predicted: LabelledMasks, truth: LabelledMasks) -> NDArray[np.float64]:
    """(N, M) IoU, 0 where the labels differ."""
    return packed_iou(
        predicted.labels, Masks.from_dense(predicted.masks), truth.labels, Masks.from_dense(truth.masks)
    )


def packed_iou(
    labels: NDArray[np.integer], masks: Masks, truth_labels: NDArray[np.integer], truth: Masks
) -> NDArray[np.float64]:
    """As `same_class_iou`, of packed masks and labels (N,), (M,): only what two boxes share is looked at."""
    top, bottom = masks.boxes[:, None, :2], masks.boxes[:, None, 2:]
    share_pixels = (
        np.minimum(bottom, truth.boxes[None, :, 2:]) > np.maximum(top, truth.boxes[None, :, :2])
    ).all(axis=2)
    found = np.zeros((len(masks), len(truth)))
    for i, j in np.argwhere(share_pixels & (labels[:, None] == truth_labels[None])).tolist():
        found[i, j] = iou(masks, i, truth, j)
    return found


def mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, M) IoU of masks (N, H, W) and (M, H, W)."""
    pixels = math.prod(a.shape[1:])
    flat_a, flat_b = (masks.reshape(len(masks), pixels).astype(np.float32) for masks in (a, b))
    intersection = (flat_a @ flat_b.T).astype(np.float64)
    union = flat_a.sum(1)[:, None] + flat_b.sum(1)[None] - intersection
    ious: NDArray[np.float64] = intersection / np.maximum(union, 1)
    return ious
