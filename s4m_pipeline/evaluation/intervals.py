"""95 % intervals of scores and of differences between scores: the bootstrap over images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From weights (B, I), how often each of I images counts in B draws, to B scores; NaN where undefined."""

DRAWS = 1000
_SEED = 0


@dataclass(frozen=True)
class Interval:
    """A score and its 95 % interval, in the unit of the score."""

    estimate: float
    """Of all images once; NaN if undefined."""
    low: float | None
    """None: there is no interval, because there is one image only or the score is undefined."""
    high: float | None

    @property
    def above_zero(self) -> bool:
        """Whether more than chance says that the score is positive."""
        return self.low is not None and self.low > 0

    @property
    def below_zero(self) -> bool:
        """Whether more than chance says that the score is negative."""
        return self.high is not None and self.high < 0

    def text(self, *, sign: bool = False) -> str:
        """E.g. "41.3 [38.0, 44.9]", with `sign` "+1.3 [-0.4, +3.1]"."""
        form = "+.1f" if sign else ".1f"
        if np.isnan(self.estimate):
            return "undefined"
        if self.low is None or self.high is None:
            return f"{self.estimate:{form}} (no interval: a single image)"
        return f"{self.estimate:{form}} [{self.low:{form}}, {self.high:{form}}]"


def draw_weights(num_images: int) -> NDArray[np.float64]:
    """(1 + B, I) how often each image counts: once in the first row, then as drawn with replacement.

    There are no draws of a single image. The seed is fixed: all scores of the same images see the same draws,
    so that the difference of two of them is a paired comparison.
    """
    once = np.ones((1, num_images))
    if num_images < 2:
        return once
    rng = np.random.default_rng(_SEED)
    drawn = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=DRAWS)
    return np.concatenate([once, drawn])


def interval_of(scores: NDArray[np.float64]) -> Interval:
    """The interval of scores (1 + B,) that belong to `draw_weights`; undefined draws are left out.

    The percentile bootstrap (Efron 1979) with the draws' mean moved to the estimate: a repeated image raises
    AP, which takes the best precision from a recall on, and would do so twice.
    """
    estimate, draws = float(scores[0]), scores[1:][~np.isnan(scores[1:])]
    if not draws.size or np.isnan(estimate):
        return Interval(estimate, None, None)
    low, high = np.percentile(draws, [2.5, 97.5]) - draws.mean() + estimate
    return Interval(estimate, float(low), float(high))


def interval(statistic: Statistic, num_images: int) -> Interval:
    """The score of `num_images` images with its interval.

    For a difference of two scores give `lambda weights: a(weights) - b(weights)`.
    """
    return interval_of(statistic(draw_weights(num_images)))


def percentage(parts: NDArray[np.number], wholes: NDArray[np.number]) -> Statistic:
    """100 x sum of parts / sum of wholes, from the counts of each image (I,); NaN where it is 0 / 0.

    With the sums of a `Tally` for each image, PQ is `percentage(iou, (predictions + objects) / 2)`.
    """

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return np.asarray(100 * (weights @ parts) / (weights @ wholes), np.float64)

    return statistic
