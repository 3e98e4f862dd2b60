"""Under-segmentation: how often one prediction covers several objects of its class."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from s4m_cache.masks import Masks, intersection
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.evaluation.pseudo_label_quality import LabeledMasks, overlapping_pairs

MIN_COVERED = 0.5
"""Fraction of an object's pixels from which on a prediction covers it."""
MIN_SCORE = 0.5


def merged_rate_of_results(truth: CocoData, results: Sequence[dict[str, Any]]) -> float:
    """`merged_instance_rate` of the COCO results (compressed RLE) with a score of at least `MIN_SCORE`."""
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        if result["score"] >= MIN_SCORE:
            by_image[result["image_id"]].append(result)
    labels = {category.id: category.label for category in truth.categories}
    images = [image for image in truth.images if by_image[image.id]]
    predictions = [
        LabeledMasks(
            np.array([labels[result["category_id"]] for result in by_image[image.id]]),
            Masks.join(
                [
                    Masks.from_dense(coco_mask.decode(result["segmentation"])[None])
                    for result in by_image[image.id]
                ]
            ),
        )
        for image in images
    ]
    return merged_instance_rate(predictions, [truth_masks(truth, image) for image in images])


def merged_instance_rate(predictions: Sequence[LabeledMasks], truths: Sequence[LabeledMasks]) -> float:
    """Percentage of predictions that cover two or more objects of their class; NaN without predictions.

    `predictions[i]` and `truths[i]` belong to the same image.
    """
    merged = [
        covered_objects(predicted, truth) >= 2 for predicted, truth in zip(predictions, truths, strict=True)
    ]
    every = np.concatenate(merged) if merged else np.zeros(0, bool)
    return 100 * float(every.mean()) if every.size else float("nan")


def covered_objects(predicted: LabeledMasks, truth: LabeledMasks) -> NDArray[np.int64]:
    """(N,) number of objects of its own class that each prediction covers."""
    counts = np.zeros(len(predicted.labels), np.int64)
    for i, j in overlapping_pairs(predicted.labels, predicted.masks, truth.labels, truth.masks):
        counts[i] += intersection(predicted.masks, i, truth.masks, j) >= MIN_COVERED * truth.masks.areas[j]
    return counts
