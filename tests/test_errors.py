"""Wrong predictions and missed objects, and precision by recall."""

import numpy as np
import pytest

from s4m_pipeline.evaluation.errors import CROWD, MIN_SCORE, confusion, find_errors
from s4m_pipeline.evaluation.mask_ap import mask_ap
from s4m_pipeline.evaluation.matches import Matches
from tests.test_intervals import data_set, square


def test_find_errors__one_of_each_kind() -> None:
    truth, *_ = data_set(1)
    boxes = {"right": (0, 0), "wrong": (0, 24), "missed": (24, 0), "crowd": (24, 24)}
    objects = [
        square(np.array(corner), 16)
        | {"id": n, "image_id": 1, "category_id": 0, "iscrowd": int(name == "crowd")}
        for n, (name, corner) in enumerate(boxes.items())
    ]
    truth.annotations[1][:] = objects
    found = [("right", 0, 0.9), ("right", 0, 0.8), ("wrong", 1, 0.7), ("crowd", 2, 0.6), ("missed", 0, 0.4)]
    results = [
        square(np.array(boxes[name]), 16) | {"image_id": 1, "category_id": category, "score": score}
        for name, category, score in found
    ]
    usable = frozenset(a["id"] for a in objects if not a["iscrowd"])
    (errors,) = find_errors(type(truth)(**{**vars(truth), "usable": usable}), results[::-1])
    assert [errors.kind(place) for place in range(4)] == ["right", "duplicate", "wrong class", "crowd"]
    assert errors.missed.tolist() == [2]  # the prediction of it scores too low
    assert errors.num_errors == 3
    assert confusion(truth, [errors]).tolist() == [[1, 1, 0, 1], [0] * 4, [0] * 4, [1, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_confusion__counts_every_object_and_every_prediction_once(seed: int) -> None:
    truth, results, _ = data_set(20, seed=seed)
    errors = find_errors(truth, results)
    counts = confusion(truth, errors)
    per_class = truth.class_counts(truth.images)
    assert counts[:-1].sum(axis=1).tolist() == list(per_class.values())
    shown = [result for result in results if result["score"] >= MIN_SCORE]
    in_crowds = sum(int((found.partner == CROWD).sum()) for found in errors)
    assert counts[:, :-1].sum() == len(shown) - in_crowds
    assert counts[-1, -1] == 0
    wrong = counts.sum() - np.trace(counts)
    assert sum(found.num_errors for found in errors) == wrong > 0


def test_confusion__of_the_truth_itself__has_no_errors() -> None:
    truth, *_ = data_set(10)
    perfect = [{**a, "score": 1.0} for found in truth.annotations.values() for a in found if not a["iscrowd"]]
    counts = confusion(truth, find_errors(truth, perfect))
    assert counts.sum() == np.trace(counts) == len(perfect)


@pytest.mark.parametrize("seed", range(3))
def test_precision_curve__its_mean_over_recalls_and_ious_is_the_average_precision(seed: int) -> None:
    truth, results, _ = data_set(15, seed=seed)
    matches = Matches.of(truth, results)
    curves = np.array([matches.precision_curve(iou) for iou in np.linspace(0.5, 0.95, 10)])
    found = mask_ap(truth, results)
    assert curves.mean() == pytest.approx(found.AP, abs=1e-3)
    assert curves[0].mean() == pytest.approx(found.AP50, abs=1e-3)
    assert (np.diff(curves, axis=1) <= 1e-9).all()


def test_precision_curve__without_predictions_is_zero() -> None:
    truth, *_ = data_set(5)
    assert not Matches.of(truth, []).precision_curve(0.5).any()
