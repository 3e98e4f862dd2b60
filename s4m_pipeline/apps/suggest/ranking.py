"""Rank images by what a label would teach, and choose some that are not alike. Pure functions of arrays.

I images, M pseudo-labeled instances in all of them, K labeled images, D numbers that describe an image.
"""

import numpy as np
from numpy.typing import NDArray

from s4m_cache.compare import ImageChange

Values = NDArray[np.float64]


def changed_fraction(change: ImageChange) -> float:
    """How much of an image's labels differs between two generations: 0 the same, 1 nothing in common."""
    differing = change.gained + change.lost + change.relabeled + sum(1 - iou for iou in change.ious)
    return min(1.0, differing / max(1, change.gained + change.lost + len(change.ious)))


def percentile(values_I: Values) -> Values:
    """(I,) rank of each value above 0 and below 1; equal values share a rank, NaN counts as average."""
    known = ~np.isnan(values_I)
    _, inverse, counts = np.unique(values_I[known], return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    ranks_I = np.full(len(values_I), 0.5)
    ranks_I[known] = middle[inverse] / (known.sum() + 1)
    return ranks_I


def spread(scores_I: Values, descriptors_ID: Values, known_KD: Values, count: int) -> list[int]:
    """Choose images of high score that are unlike each other and unlike the labeled ones.

    Greedy k-center, weighted: next comes the image with the largest product of its score and its distance to
    the nearest image that is labeled or chosen already. So the first images are the same for every `count`.

    Args:
        scores_I: above 0.
        known_KD: descriptors of the labeled images, at least one.

    Returns:
        At most `count` positions, in the order of choice.
    """
    nearest_I = np.full(len(scores_I), np.inf)
    for known_D in known_KD:
        nearest_I = np.minimum(nearest_I, np.linalg.norm(descriptors_ID - known_D, axis=1))
    chosen: list[int] = []
    for _ in range(min(count, len(scores_I))):
        gain_I = scores_I * nearest_I
        gain_I[chosen] = -1
        chosen.append(int(gain_I.argmax()))
        nearest_I = np.minimum(nearest_I, np.linalg.norm(descriptors_ID - descriptors_ID[chosen[-1]], axis=1))
    return chosen
