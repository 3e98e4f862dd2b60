"""What refinement did to pseudo-labels: their quality before and after, measured against ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from s4m_pipeline.evaluation.pseudo_label_quality import LabelledMasks, mask_iou, match_iou

NOTICEABLE = 0.01
"""An instance counts as improved or worsened from this change of its IoU on."""


@dataclass
class Tally:
    """Sums over the predictions of one kind (before or after) and one class."""

    predictions: int = 0
    matched: list[float] = field(default_factory=list)
    """IoU of each true positive: same class, above one half, one prediction per object."""

    @property
    def segmentation_quality(self) -> float | None:
        """SQ in percent: mean IoU of true positives; None without any."""
        return 100 * float(np.mean(self.matched)) if self.matched else None

    @property
    def class_accuracy(self) -> float | None:
        """CA in percent: true positives / predictions; None without predictions."""
        return 100 * len(self.matched) / self.predictions if self.predictions else None


class RefinementQuality:
    """Collects image by image; SQ and CA as `pseudo_label_quality` (paper, supplement).

    Args:
        classes: names by label.

    Attributes:
        before, after: tallies of each class, by label.
        changes: IoU after minus IoU before of each instance, each with the best object of its class.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.before = [Tally() for _ in classes]
        self.after = [Tally() for _ in classes]
        self.changes: list[float] = []

    def add(self, before: LabelledMasks, after: LabelledMasks, truth: LabelledMasks) -> None:
        """Count one image; `before` and `after` hold the same instances by falling score."""
        same_class = before.labels[:, None] == truth.labels[None]
        iou_before = np.where(same_class, mask_iou(before.masks, truth.masks), 0.0)
        iou_after = np.where(same_class, mask_iou(after.masks, truth.masks), 0.0)
        best = iou_after.max(axis=1, initial=0.0) - iou_before.max(axis=1, initial=0.0)
        self.changes += best.tolist()
        for tallies, iou in ((self.before, iou_before), (self.after, iou_after)):
            for label, tally in enumerate(tallies):
                _count(tally, iou, before.labels == label)

    def as_dict(self) -> dict[str, float | int | None]:
        """Figures in percent, overall and by class, rounded to hundredths."""
        changes = np.array(self.changes)
        figures: dict[str, float | int | None] = {
            "SQ before": _total(self.before).segmentation_quality,
            "SQ after": _total(self.after).segmentation_quality,
            "CA before": _total(self.before).class_accuracy,
            "CA after": _total(self.after).class_accuracy,
            "improved": 100 * float((changes >= NOTICEABLE).mean()) if changes.size else None,
            "worsened": 100 * float((changes <= -NOTICEABLE).mean()) if changes.size else None,
        }
        for name, before, after in zip(self.classes, self.before, self.after, strict=True):
            figures |= {
                f"SQ before, {name}": before.segmentation_quality,
                f"SQ after, {name}": after.segmentation_quality,
                f"CA before, {name}": before.class_accuracy,
                f"CA after, {name}": after.class_accuracy,
            }
        rounded = {name: None if value is None else round(value, 2) for name, value in figures.items()}
        return {"instances measured": len(self.changes), **rounded}


def _count(tally: Tally, iou: NDArray[np.float64], of_class: NDArray[np.bool_]) -> None:
    tally.predictions += int(of_class.sum())
    tally.matched += match_iou(iou[of_class])


def _total(tallies: Sequence[Tally]) -> Tally:
    matched = [iou for tally in tallies for iou in tally.matched]
    return Tally(sum(tally.predictions for tally in tallies), matched)
