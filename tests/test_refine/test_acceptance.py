"""Calibrated acceptance: safe where SAM is useless or perfect, and no worse than the better of both."""

import numpy as np
import pytest

from s4m_pipeline.refine.acceptance import (
    MIN_IMAGES,
    MIN_INSTANCES,
    Acceptance,
    Logistic,
    calibrate,
    fit,
)
from s4m_pipeline.refine.samples import Samples


def simulated(
    rng: np.random.Generator, num_images: int, *, quality: float, informative: float, per_image: int = 8
) -> Samples:
    """Labels whose refined masks are good with a probability of `quality`, else bad; of the six features one
    tells which, as far as it is `informative`, and one is the IoU of both masks."""
    count = num_images * per_image
    good = rng.random(count) < quality
    raw = np.clip(rng.normal(0.7, 0.12, count), 0.05, 1)
    refined = np.clip(np.where(good, rng.normal(0.87, 0.06, count), rng.normal(0.35, 0.2, count)), 0, 1)
    features = rng.normal(0, 1, (count, 6))
    features[:, 0] += informative * (2 * good - 1)
    features[:, 1] = np.clip(1 - np.abs(refined - raw) + rng.normal(0, 0.1, count), 0, 1)
    return samples_of(np.repeat(np.arange(num_images), per_image), features, raw, refined)


def samples_of(image: np.ndarray, features: np.ndarray, raw: np.ndarray, refined: np.ndarray) -> Samples:
    """Labels of one class, each of which has an object of its own."""
    iou, rows = np.stack([raw, refined], axis=1), np.arange(len(image))
    return Samples(image, np.zeros(len(image), np.int64), features, iou, np.stack([rows, rows], axis=1), iou)


def mean_iou(samples: Samples, acceptance: Acceptance) -> float:
    raw = acceptance.use_raw(samples.features)
    return float(np.where(raw, *samples.iou.T).mean())


def test_calibrate__useless_masks_end_in_the_teachers_own() -> None:
    rng = np.random.default_rng(0)
    samples = simulated(rng, 20, quality=0, informative=0)
    samples = samples_of(samples.image, samples.features, samples.iou[:, 0], np.zeros(len(samples.image)))
    found = calibrate(samples)
    assert found is not None
    fresh = simulated(rng, 50, quality=0, informative=0)
    assert found.acceptance.use_raw(fresh.features).all()


def test_calibrate__perfect_masks_end_in_the_refined() -> None:
    rng = np.random.default_rng(0)
    samples = simulated(rng, 20, quality=1, informative=0)
    samples = samples_of(samples.image, samples.features, samples.iou[:, 0], np.ones(len(samples.image)))
    found = calibrate(samples)
    assert found is not None
    fresh = simulated(rng, 50, quality=1, informative=0)
    assert not found.acceptance.use_raw(fresh.features).any()


@pytest.mark.parametrize("quality", [0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
@pytest.mark.parametrize("informative", [0.0, 0.5, 2.0])
def test_calibrate__mixes_are_never_below_the_better_of_both_in_the_mean(
    quality: float, informative: float
) -> None:
    rng = np.random.default_rng(1)
    chosen, raw, refined = [], [], []
    for _ in range(20):
        found = calibrate(simulated(rng, MIN_IMAGES, quality=quality, informative=informative))
        assert found is not None
        fresh = simulated(rng, 100, quality=quality, informative=informative)
        chosen.append(mean_iou(fresh, found.acceptance))
        raw.append(fresh.iou[:, 0].mean())
        refined.append(fresh.iou[:, 1].mean())
    better = max(np.mean(raw), np.mean(refined))
    assert np.mean(chosen) > better - 0.005
    if informative == 2.0 and 0.3 <= quality <= 0.9:
        assert np.mean(chosen) > better + 0.01


def test_calibrate__more_images_than_groups_are_left_out_together() -> None:
    samples = simulated(np.random.default_rng(2), 120, quality=0.6, informative=1)
    found = calibrate(samples)
    assert found is not None
    assert found.chosen == "calibrated"
    assert found.mean_iou["calibrated"] == pytest.approx(mean_iou(samples, found.acceptance), abs=0.01)
    assert "calibrated 0." in found.text


@pytest.mark.parametrize(
    ("num_images", "per_image"), [(MIN_IMAGES - 1, 20), (MIN_IMAGES, MIN_INSTANCES // MIN_IMAGES - 1), (0, 0)]
)
def test_calibrate__too_little_to_learn_from_is_none(num_images: int, per_image: int) -> None:
    rng = np.random.default_rng(3)
    assert calibrate(simulated(rng, num_images, quality=0.5, informative=1, per_image=per_image)) is None


def test_fit__one_class_alone_or_constant_features_stay_finite() -> None:
    features = np.ones((30, 6))
    found = fit(features, np.full(30, 0.2), np.ones(30, bool))
    assert np.isfinite(found.weights).all()
    assert np.isfinite(found.bias)
    assert (found.probability(features) > 0.99).all()


def test_fit__instances_count_as_much_as_the_choice_matters() -> None:
    """Two of three labels get slightly worse, the third much better: the mean IoU wants SAM's masks."""
    features = np.zeros((300, 6))
    gain = np.tile([-0.02, -0.02, 0.3], 100)
    assert (fit(features, np.abs(gain), gain > 0).probability(features) > 0.5).all()
    assert (fit(features, np.ones(300), gain > 0).probability(features) < 0.5).all()


def test_acceptance__as_json_is_the_same_rule() -> None:
    samples = with_false_positives(np.random.default_rng(4), 20)
    found = calibrate(samples, 0.3)
    assert found is not None
    rule, again = found.acceptance, Acceptance.from_record(found.acceptance.as_record())
    for name in ("use_raw", "ignored"):
        expected = getattr(rule, name)(samples.features)
        assert (getattr(again, name)(samples.features) == expected).all()
        assert expected.any() and not expected.all()


def test_acceptance__recorded_before_labels_were_ignored__ignores_none() -> None:
    rule = Acceptance.from_record({"weights": [1.0, -1.0], "bias": 0.5})
    features = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert rule.use_raw(features).tolist() == [False, True]
    assert not rule.ignored(features).any()


# Ignored labels.


def with_false_positives(rng: np.random.Generator, num_images: int, found: float = 0.7) -> Samples:
    """Labels as `simulated`, of which a part shows no object of its class; the third feature is the logit of
    the probability that one does, on average `found`."""
    samples = simulated(rng, num_images, quality=0.6, informative=1.0)
    count = len(samples.image)
    features = samples.features.copy()
    features[:, 2] = rng.normal(logit(found), 2, count)
    right = rng.random(count) < Logistic(np.array([1.0]), 0.0).probability(features[:, 2:3])
    return Samples(
        samples.image, samples.label, features, samples.iou, samples.pair[right], samples.pair_iou[right]
    )


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def test_calibrate__ignored_labels_are_those_that_show_an_object_too_seldom() -> None:
    found = calibrate(with_false_positives(np.random.default_rng(0), 100), 0.3)
    fresh = with_false_positives(np.random.default_rng(1), 2000)
    assert found is not None and found.acceptance.right is not None
    ignored = found.acceptance.ignored(fresh.features)
    assert 0.05 < ignored.mean() < 0.4
    truth = Logistic(np.array([1.0]), 0.0).probability(fresh.features[:, 2:3])
    assert np.mean(ignored == (truth < 0.3)) > 0.97
    assert fresh.right[ignored].mean() < 0.2 < 0.7 < fresh.right[~ignored].mean()
    predicted = found.acceptance.right.probability(fresh.features)
    for low in np.arange(0.0, 1.0, 0.2):  # of labels with a probability of p, p are right
        of_bin = (predicted >= low) & (predicted < low + 0.2)
        assert fresh.right[of_bin].mean() == pytest.approx(predicted[of_bin].mean(), abs=0.05)


def test_calibrate__ignoring_changes_no_choice_of_masks_and_is_named() -> None:
    samples = with_false_positives(np.random.default_rng(2), 40)
    plain, ignoring = calibrate(samples), calibrate(samples, 0.3)
    assert plain is not None and ignoring is not None
    assert (plain.use_raw == ignoring.use_raw).all() and plain.mean_iou == ignoring.mean_iou
    assert not plain.ignored.any() and plain.acceptance.right is None and "ignored" not in plain.text
    count = int(ignoring.ignored.sum())
    assert (
        f"{count} of their {len(samples.image)} labels are ignored (refine.ignore_below=0.3)" in ignoring.text
    )


def test_calibrate__every_label_right__ignores_none() -> None:
    found = calibrate(simulated(np.random.default_rng(3), 20, quality=0.5, informative=1.0), 0.5)
    assert found is not None
    assert not found.ignored.any()
