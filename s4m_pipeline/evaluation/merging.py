"""Under-segmentation: how often one prediction swallows several objects of its class."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from s4m_pipeline.evaluation.pseudo_label_quality import LabelledMasks

COVERED_SHARE = 0.5


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
