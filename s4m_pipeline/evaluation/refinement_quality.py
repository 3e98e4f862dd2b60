"""What refinement did to pseudo-labels: their quality before and after, measured against ground truth."""

from collections.abc import Sequence

import numpy as np

from s4m_pipeline.evaluation.pseudo_label_quality import LabelledMasks, same_class_iou
from s4m_pipeline.evaluation.tally import ClassTallies

NOTICEABLE = 0.01
"""An instance counts as improved or worsened from this change of its IoU on."""


class RefinementQuality:
    """Collects image by image; SQ and CA as `pseudo_label_quality` (paper, supplement).

    Args:
        num_classes: number of labels.

    Attributes:
        before, after: tallies of each class.
        improved, worsened: instances whose IoU with the best object of their class rose, fell noticeably.
    """

    def __init__(self, num_classes: int) -> None:
        self.before = ClassTallies.empty(num_classes)
        self.after = ClassTallies.empty(num_classes)
        self.improved = self.worsened = 0

    def add(self, before: LabelledMasks, after: LabelledMasks, truth: LabelledMasks) -> None:
        """Count one image; `before` and `after` hold the same instances by falling score."""
        iou_before, iou_after = same_class_iou(before, truth), same_class_iou(after, truth)
        change = iou_after.max(axis=1, initial=0.0) - iou_before.max(axis=1, initial=0.0)
        self.improved += int(np.count_nonzero(change >= NOTICEABLE))
        self.worsened += int(np.count_nonzero(change <= -NOTICEABLE))
        self.before.add(before.labels, truth.labels, iou_before)
        self.after.add(after.labels, truth.labels, iou_after)

    def as_dict(self, classes: Sequence[str]) -> dict[str, float | int | None]:
        """Figures in percent, overall and by class (names by label), rounded to hundredths."""
        total = self.after.total
        figures = {
            "SQ before": self.before.total.segmentation_quality,
            "SQ after": total.segmentation_quality,
            "CA before": self.before.total.class_accuracy,
            "CA after": total.class_accuracy,
            "improved": 100 * self.improved / total.predictions if total.predictions else None,
            "worsened": 100 * self.worsened / total.predictions if total.predictions else None,
        }
        for name, before, after in zip(classes, self.before.by_class, self.after.by_class, strict=True):
            figures |= {
                f"SQ before, {name}": before.segmentation_quality,
                f"SQ after, {name}": after.segmentation_quality,
                f"CA before, {name}": before.class_accuracy,
                f"CA after, {name}": after.class_accuracy,
            }
        rounded = {name: None if value is None else round(value, 2) for name, value in figures.items()}
        return {"instances measured": total.predictions, **rounded}
