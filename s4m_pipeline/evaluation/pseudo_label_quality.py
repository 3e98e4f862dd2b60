"""Match pseudo-labels with true objects, for segmentation quality and class accuracy (paper, supplement).

Counts are integers, so that their sums are exact in any order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s4m_cache.masks import MATCH_IOU, Masks, iou

_UNIT = 1_000_000


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


def same_class_iou(
    labels: NDArray[np.integer], masks: Masks, truth_labels: NDArray[np.integer], truth: Masks
) -> NDArray[np.float64]:
    """(N, M) IoU of predictions and objects, 0 where the labels (N,), (M,) differ."""
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


@dataclass
class Tally:
    """Counts over the labels of one or several classes, and figures in percent (None for 0 / 0)."""

    predictions: int = 0
    objects: int = 0
    matches: int = 0
    """True positives: same class, IoU above 0.5, one prediction per object."""
    iou_millionths: int = 0
    """Sum of their IoUs in millionths: with integers the sum does not depend on the order."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.predictions + other.predictions,
            self.objects + other.objects,
            self.matches + other.matches,
            self.iou_millionths + other.iou_millionths,
        )

    @property
    def segmentation_quality(self) -> float | None:
        """Segmentation quality (SQ): mean IoU of true positives."""
        return _percent(self.iou_millionths / _UNIT, self.matches)

    @property
    def class_accuracy(self) -> float | None:
        """Class accuracy (CA): true positives / predictions."""
        return _percent(self.matches, self.predictions)

    @property
    def recall(self) -> float | None:
        """True positives / objects."""
        return _percent(self.matches, self.objects)

    @property
    def panoptic_quality(self) -> float | None:
        """Panoptic quality (PQ): sum of the true positives' IoUs / (TP + FP / 2 + FN / 2)."""
        return _percent(self.iou_millionths / _UNIT, (self.predictions + self.objects) / 2)


class ClassTallies:
    """One tally per class, by label."""

    def __init__(self, tallies: Iterable[Tally]) -> None:
        self.by_class = list(tallies)

    @classmethod
    def empty(cls, num_classes: int) -> "ClassTallies":
        """All counts 0."""
        return cls(Tally() for _ in range(num_classes))

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]]) -> "ClassTallies":
        """The inverse of `rows`."""
        return cls(Tally(*row) for row in rows)

    def rows(self) -> list[list[int]]:
        """The counts of each class, as JSON values."""
        return [[t.predictions, t.objects, t.matches, t.iou_millionths] for t in self.by_class]

    def __add__(self, other: "ClassTallies") -> "ClassTallies":
        return ClassTallies(a + b for a, b in zip(self.by_class, other.by_class, strict=True))

    @property
    def total(self) -> Tally:
        """Over all classes."""
        return sum(self.by_class, Tally())

    def add(self, labels: NDArray[np.integer], truth: NDArray[np.integer], iou: NDArray[np.float64]) -> None:
        """Add one image.

        Args:
            labels: (N,) of the predictions, by falling score.
            truth: (M,) of the objects.
            iou: (N, M), 0 where the labels differ.
        """
        for label, tally in enumerate(self.by_class):
            rows, columns = labels == label, truth == label
            matched = match_iou(iou[rows][:, columns])
            tally.predictions += int(rows.sum())
            tally.objects += int(columns.sum())
            tally.matches += len(matched)
            tally.iou_millionths += sum(round(_UNIT * value) for value in matched)


def _percent(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole else None
