"""What segmentation quality and class accuracy of pseudo-labels are counted from (paper, supplement)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.masks import MATCH_IOU, Masks, iou


@dataclass(frozen=True)
class LabelledMasks:
    """The instances of one image: N labels (int) and N masks (N, H, W) bool."""

    labels: NDArray[np.integer]
    masks: NDArray[np.bool_]


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
