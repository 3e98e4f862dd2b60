"""Under-segmentation: how often one prediction swallows several objects of its class."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.evaluation.pseudo_label_quality import LabelledMasks

COVERED_SHARE = 0.5
MIN_SCORE = 0.5


def merged_rate_of_results(truth: CocoData, results: Sequence[dict[str, Any]]) -> float:
    """`merged_instance_rate` of the COCO results (compressed RLE) with a score of one half or more."""
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        if result["score"] >= MIN_SCORE:
            by_image[result["image_id"]].append(result)
    labels = {category.id: category.label for category in truth.categories}
    images = [image for image in truth.images if by_image[image.id]]
    predictions = [
        LabelledMasks(
            np.array([labels[result["category_id"]] for result in by_image[image.id]]),
            coco_mask.decode([result["segmentation"] for result in by_image[image.id]])
            .transpose(2, 0, 1)
            .astype(bool),
        )
        for image in images
    ]
    return merged_instance_rate(predictions, [truth_masks(truth, image) for image in images])


def merged_instance_rate(predictions: Sequence[LabelledMasks], truths: Sequence[LabelledMasks]) -> float:
    """Share of predictions, in percent, that cover two or more objects of their class by half or more.

    `predictions[i]` and `truths[i]` belong to the same image. NaN if nothing is predicted.
    """
    merged = [
        covered_objects(predicted, truth) >= 2 for predicted, truth in zip(predictions, truths, strict=True)
    ]
    every = np.concatenate(merged) if merged else np.zeros(0, bool)
    return 100 * float(every.mean()) if every.size else float("nan")


def covered_objects(predicted: LabelledMasks, truth: LabelledMasks) -> NDArray[np.int64]:
    """(N,) how many objects of its own class each prediction covers by half or more."""
    counts = np.zeros(len(predicted.labels), np.int64)
    for label, mask in zip(truth.labels, truth.masks, strict=True):
        inside = predicted.masks[:, mask].mean(axis=1) if len(predicted.labels) else np.zeros(0)
        counts += (inside >= COVERED_SHARE) & (predicted.labels == label)
    return counts
