"""What refinement did to pseudo-labels: their quality before and after, measured against ground truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cache.masks import Masks
from cache.records import Instances
from s4m_pipeline.evaluation.pseudo_label_quality import LabelledMasks, packed_iou
from s4m_pipeline.evaluation.tally import ClassTallies

NOTICEABLE = 0.01
"""An instance counts as improved or worsened from this change of its IoU on."""


class RefinementQuality:
    """Collects image by image; SQ and CA as in the paper's supplement.

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

    def add(self, found: Instances, truth: LabelledMasks) -> None:
        """Count one image; `found` is sorted by falling score and has the masks before refinement, too."""
        assert found.raw_masks is not None  # the caller's business
        objects = Masks.from_dense(truth.masks)
        before = packed_iou(found.labels, found.raw_masks, truth.labels, objects)
        after = packed_iou(found.labels, found.masks, truth.labels, objects)
        change = after.max(axis=1, initial=0.0) - before.max(axis=1, initial=0.0)
        self.improved += int(np.count_nonzero(change >= NOTICEABLE))
        self.worsened += int(np.count_nonzero(change <= -NOTICEABLE))
        self.before.add(found.labels, truth.labels, before)
        self.after.add(found.labels, truth.labels, after)

    def __add__(self, other: "RefinementQuality") -> "RefinementQuality":
        both = RefinementQuality(0)
        both.before, both.after = self.before + other.before, self.after + other.after
        both.improved, both.worsened = self.improved + other.improved, self.worsened + other.worsened
        return both

    def counts(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "before": self.before.rows(),
            "after": self.after.rows(),
            "improved": self.improved,
            "worsened": self.worsened,
        }

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> "RefinementQuality":
        """From what `counts` gave."""
        quality = cls(0)
        quality.before, quality.after = (ClassTallies.from_rows(counts[name]) for name in ("before", "after"))
        quality.improved, quality.worsened = counts["improved"], counts["worsened"]
        return quality

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
