"""Quality of pseudo-labels before and after refinement, measured with ground truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4m_cache.reader import CacheReader
from s4m_cache.records import ImageLabels, Instances
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.evaluation.pseudo_label_quality import ClassTallies, LabeledMasks, same_class_iou

NOTICEABLE = 0.01
"""Smallest change of an instance's IoU that counts as improved or worsened."""


class RefinementQuality:
    """Segmentation quality (SQ) and class accuracy (CA), as in the paper's supplement, image by image.

    Args:
        num_classes: number of labels.

    Attributes:
        before, after: tallies of each class.
        improved, worsened: instances whose IoU with the best object of their class rose or fell.
    """

    def __init__(self, num_classes: int) -> None:
        self.before = ClassTallies.empty(num_classes)
        self.after = ClassTallies.empty(num_classes)
        self.improved = self.worsened = 0

    def add(self, found: Instances, truth: LabeledMasks) -> None:
        """Add one image; `found` is sorted by falling score and includes the masks before refinement.

        Ignored instances count before refinement only.
        """
        assert found.raw_masks is not None
        kept = found.kept
        before = same_class_iou(found.labels, found.raw_masks, truth.labels, truth.masks)
        after = same_class_iou(kept.labels, kept.masks, truth.labels, truth.masks)
        change = after.max(axis=1, initial=0.0) - before[~found.ignored].max(axis=1, initial=0.0)
        self.improved += int(np.count_nonzero(change >= NOTICEABLE))
        self.worsened += int(np.count_nonzero(change <= -NOTICEABLE))
        self.before.add(found.labels, truth.labels, before)
        self.after.add(kept.labels, truth.labels, after)

    def __add__(self, other: "RefinementQuality") -> "RefinementQuality":
        both = RefinementQuality(0)
        both.before, both.after = self.before + other.before, self.after + other.after
        both.improved, both.worsened = self.improved + other.improved, self.worsened + other.worsened
        return both

    def counts(self) -> dict[str, Any]:
        """All counts, as JSON values."""
        return {
            "before": self.before.rows(),
            "after": self.after.rows(),
            "improved": self.improved,
            "worsened": self.worsened,
        }

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> "RefinementQuality":
        """The inverse of `counts`."""
        quality = cls(0)
        quality.before, quality.after = (ClassTallies.from_rows(counts[name]) for name in ("before", "after"))
        quality.improved, quality.worsened = counts["improved"], counts["worsened"]
        return quality

    def as_dict(self, classes: Sequence[str]) -> dict[str, float | int | None]:
        """Figures in percent, overall and per class (names by label), rounded to hundredths."""
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


class LabelMeter:
    """Adds up the quality of the labels of one image after the other.

    Args:
        truth: annotations; images that are not in it are skipped.

    Attributes:
        quality: the sums.
        images: images given, whether or not they are in `truth`.
    """

    def __init__(self, truth: CocoData) -> None:
        self.truth = truth
        self.quality = RefinementQuality(len(truth.categories))
        self.images = 0
        self._sizes = {image.id: image for image in truth.images}

    def add(self, labels: ImageLabels) -> None:
        """Count the labels of an image, which include the masks before refinement."""
        self.images += 1
        image = self._sizes.get(labels.image_id)
        if image is not None and (labels.height, labels.width) == (image.height, image.width):
            self.quality.add(labels.instances, truth_masks(self.truth, image))

    def counts(self) -> dict[str, Any]:
        """As JSON, with the ground truth that it belongs to."""
        return {"truth": self.truth.sha256, "images": self.images, **self.quality.counts()}


def quality_of_shard(
    reader: CacheReader, image_ids: NDArray[np.int64], truth: CocoData, counts: Mapping[str, Any] | None
) -> RefinementQuality:
    """Quality of a shard's labels.

    Args:
        reader: of the generation.
        image_ids: of the shard.
        counts: what was counted while the labels were made; unless that covers all of them and the same
            ground truth, they are read back.
    """
    if counts and counts["truth"] == truth.sha256 and counts["images"] == image_ids.size:
        return RefinementQuality.from_counts(counts)
    meter = LabelMeter(truth)
    for image_id in image_ids.tolist():
        meter.add(reader.read(image_id, raw=True))
    return meter.quality


def sum_counts(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The sum of two `LabelMeter.counts`; if their ground truth differs, the second one alone."""
    if not one or not other:
        return one or other
    if one["truth"] != other["truth"]:
        return other
    quality = RefinementQuality.from_counts(one) + RefinementQuality.from_counts(other)
    return {"truth": one["truth"], "images": one["images"] + other["images"], **quality.counts()}
