"""Quality of stored labels against ground truth, counted as they are made or read back from the cache."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.reader import CacheReader
from cache.records import ImageLabels
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.evaluation.refinement_quality import RefinementQuality


class LabelMeter:
    """Adds up the quality of the labels of one image after the other.

    Args:
        truth: annotations; images that are not in it are passed over.

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
        """Count the labels of an image; they hold the masks before refinement, too."""
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
        counts: what was counted while the labels were made; if that is not all of them, or was compared with
            other ground truth, they are read back.
    """
    if counts and counts["truth"] == truth.sha256 and counts["images"] == image_ids.size:
        return RefinementQuality.from_counts(counts)
    meter = LabelMeter(truth)
    for image_id in image_ids.tolist():
        meter.add(reader.read(image_id, raw=True))
    return meter.quality


def sum_counts(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Both together; of two that belong to different ground truth, the latter alone."""
    if not one or not other:
        return one or other
    if one["truth"] != other["truth"]:
        return other
    quality = RefinementQuality.from_counts(one) + RefinementQuality.from_counts(other)
    return {"truth": one["truth"], "images": one["images"] + other["images"], **quality.counts()}
