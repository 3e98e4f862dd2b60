"""Calibrated acceptance: for each label, the mask that is likely nearer to the truth, SAM's or the teacher's,
or none of them.

What is known without truth (SAM's estimate of its own mask, how much the masks differ, ...) is compared with
the truth on validation images by two logistic regressions. The first one tells which mask is the better one;
each instance counts as much as the choice matters: by the difference of its masks' IoUs with the truth. The
second one tells how likely an object of the label's class lies below one of the masks.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from s4m_cache.records import ImageLabels
from s4m_pipeline.refine.samples import Samples, features_of

MIN_IMAGES = 10
"""Fewer validation images with labels do not calibrate: in a trial, ten were enough never to do harm."""
MIN_INSTANCES = 50
"""Labels on them, of which at least so many must have an object below one of their masks."""
RIDGE = 1.0
_FOLDS = 50
"""Images are left out one by one, or in so many groups if there are more."""


@dataclass(frozen=True, eq=False)
class Logistic:
    """A probability that depends on features."""

    weights: NDArray[np.float64]
    """(F,)."""
    bias: float

    def probability(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(M,) from features (M, F)."""
        return expit(features @ self.weights + self.bias)

    def as_record(self) -> dict[str, Any]:
        """As JSON."""
        return {"weights": self.weights.tolist(), "bias": self.bias}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Logistic":
        """From what `as_record` gave."""
        return cls(np.array(record["weights"], np.float64), record["bias"])


@dataclass(frozen=True, eq=False)
class Acceptance:
    """A rule that takes SAM's mask of a label, the teacher's, or none."""

    refined: Logistic
    """Of SAM's mask being the better one: it is taken above one half."""
    right: Logistic | None = None
    """Of the better mask matching an object of its class; None: no label is ignored."""
    ignore_below: float = 0.0
    """Labels of a smaller probability are ignored."""

    def use_raw(self, features: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(M,) where the teacher's mask is better than SAM's, from features (M, F)."""
        return self.refined.probability(features) <= 0.5

    def ignored(self, features: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(M,) where neither mask is taken."""
        if self.right is None:
            return np.zeros(len(features), np.bool_)
        return self.right.probability(features) < self.ignore_below

    def apply(self, labels: ImageLabels) -> ImageLabels:
        """The same labels, with the masks that this rule takes."""
        features = features_of(labels.instances)
        ignored = self.ignored(features)
        use_raw = self.use_raw(features) & ~ignored
        instances = dataclasses.replace(labels.instances, use_raw=use_raw, ignored=ignored)
        return dataclasses.replace(labels, instances=instances)

    def as_record(self) -> dict[str, Any]:
        """As JSON."""
        right = self.right and self.right.as_record()
        return {**self.refined.as_record(), "right": right, "ignore_below": self.ignore_below}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Acceptance":
        """From what `as_record` gave, in this version or before labels were ignored."""
        right = record.get("right")
        return cls(
            Logistic.from_record(record),
            right and Logistic.from_record(right),
            record.get("ignore_below", 0.0),
        )


def fit(features: NDArray[np.float64], weights: NDArray[np.float64], targets: NDArray[np.bool_]) -> Logistic:
    """Logistic regression with a ridge on standardized features; the bias is free.

    Args:
        features: (M, F).
        weights: (M,) how much each instance counts.
        targets: (M,) what is to be predicted.
    """
    center, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    design = np.column_stack([(features - center) / scale, np.ones(len(features))])
    ridge = np.append(np.full(features.shape[1], RIDGE), 1e-6)  # else the bias of one class alone is infinite

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = design @ parameters
        # log(1 + exp(x)) - target * x, without overflow
        value = weights @ (np.logaddexp(0.0, logits) - targets * logits)
        gradient = design.T @ (weights * (expit(logits) - targets))
        return float(value + 0.5 * ridge @ parameters**2), gradient + ridge * parameters

    found = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x
    slopes = found[:-1] / scale
    return Logistic(slopes, float(found[-1] - center @ slopes))


@dataclass(frozen=True, eq=False)
class Calibration:
    """The rule for a generation, and the mean IoU with the truth that it was chosen for."""

    acceptance: Acceptance
    chosen: Literal["raw", "refined", "calibrated"]
    mean_iou: Mapping[str, float]
    """By rule; `calibrated` is measured on images that were left out in fitting."""
    use_raw: NDArray[np.bool_]
    """(M,) of the samples, where the chosen rule takes the teacher's mask; each image was left out."""
    ignored: NDArray[np.bool_]
    """(M,) of the samples, where it takes neither; each image was left out."""

    @property
    def text(self) -> str:
        """The reason, in a line."""
        figures = ", ".join(f"{name} {value:.3f}" for name, value in self.mean_iou.items())
        ignoring = ""
        if self.acceptance.right is not None:
            count, of = np.count_nonzero(self.ignored), len(self.ignored)
            below = self.acceptance.ignore_below
            ignoring = f"; {count} of their {of} labels are ignored (refine.ignore_below={below:g})"
        return f"refine.accept=calibrated: mean IoU on validation images is {figures}{ignoring}"


def calibrate(samples: Samples, ignore_below: float = 0.0) -> Calibration | None:
    """The best of three rules: the teacher's masks, SAM's masks, or a fitted rule that chooses between them.

    None if there are fewer than `MIN_IMAGES` images or `MIN_INSTANCES` labels with an object.

    Args:
        samples: labels of validation images.
        ignore_below: probability of matching an object of its class below which a label is ignored; 0: none.
    """
    raw_iou, refined_iou = samples.iou.T
    images = np.unique(samples.image)
    if len(images) < MIN_IMAGES or (samples.iou.max(axis=1, initial=0.0) > 0).sum() < MIN_INSTANCES:
        return None
    gain, right = refined_iou - raw_iou, samples.right

    def fit_on(rows: NDArray[np.bool_]) -> Acceptance:
        features, ones = samples.features[rows], np.ones(np.count_nonzero(rows))
        return Acceptance(
            fit(features, np.abs(gain[rows]), gain[rows] > 0),
            fit(features, ones, right[rows]) if ignore_below else None,
            ignore_below,
        )

    use_raw, ignored = np.zeros((2, len(gain)), np.bool_)
    for group in np.array_split(images, min(len(images), _FOLDS)):
        left_out = np.isin(samples.image, group)
        found, features = fit_on(~left_out), samples.features[left_out]
        use_raw[left_out], ignored[left_out] = found.use_raw(features), found.ignored(features)
    fitted, nothing = fit_on(np.ones(len(gain), np.bool_)), np.zeros(samples.features.shape[1])
    rules = {
        "raw": (Logistic(nothing, -1.0), np.ones_like(use_raw)),
        "refined": (Logistic(nothing, 1.0), np.zeros_like(use_raw)),
        "calibrated": (fitted.refined, use_raw),
    }
    mean_iou = {
        name: round(float(np.where(use_raw, raw_iou, refined_iou).mean()), 4)
        for name, (_, use_raw) in rules.items()
    }
    chosen = max(mean_iou, key=lambda name: mean_iou[name])  # of equal ones the first: the simplest
    refined, use_raw = rules[chosen]
    acceptance = dataclasses.replace(fitted, refined=refined)
    return Calibration(acceptance, chosen, mean_iou, use_raw, ignored)  # type: ignore[arg-type]
