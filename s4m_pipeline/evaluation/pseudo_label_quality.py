"""Match pseudo-labels with true objects, for segmentation quality and class accuracy (paper, supplement)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s4m_cache.masks import MATCH_IOU, Masks, iou


@dataclass(frozen=True)
class LabeledMasks:
    """The instances of one image: N labels (int) and N packed masks."""

    labels: NDArray[np.integer]
    masks: Masks


def match_iou(ious: NDArray[np.float64]) -> list[float]:
    """IoUs of the matches above 0.5 in (N, M), greedy by row (falling score); a column matches once."""
    free = ious.copy()
    matched = []
    for row in range(len(free)):
        if free.shape[1] and free[row].max() > MATCH_IOU:
            column = int(free[row].argmax())
            matched.append(float(free[row, column]))
            free[:, column] = 0.0
    return matched


def same_class_iou(predicted: LabeledMasks, truth: LabeledMasks) -> NDArray[np.float64]:
    """(N, M) IoU of predictions and objects, 0 where the labels differ."""
    return packed_iou(predicted.labels, predicted.masks, truth.labels, truth.masks)


def packed_iou(
    labels: NDArray[np.integer], masks: Masks, truth_labels: NDArray[np.integer], truth: Masks
) -> NDArray[np.float64]:
    """As `same_class_iou`, of masks with labels (N,), (M,)."""
    found = np.zeros((len(masks), len(truth)))
    for i, j in overlapping_pairs(labels, masks, truth_labels, truth):
        found[i, j] = iou(masks, i, truth, j)
    return found


def overlapping_pairs(
    labels: NDArray[np.integer], masks: Masks, truth_labels: NDArray[np.integer], truth: Masks
) -> list[list[int]]:
    """Positions [i, j] of equal labels whose boxes overlap; masks of other pairs need no decoding."""
    start, stop = masks.boxes[:, None, :2], masks.boxes[:, None, 2:]
    overlap = (np.minimum(stop, truth.boxes[None, :, 2:]) > np.maximum(start, truth.boxes[None, :, :2])).all(
        axis=2
    )
    pairs: list[list[int]] = np.argwhere(overlap & (labels[:, None] == truth_labels[None])).tolist()
    return pairs
