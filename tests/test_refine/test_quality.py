"""Quality before and after refinement."""

import numpy as np
import pytest

from s4m_pipeline.evaluation.pseudo_label_quality import LabelledMasks, pseudo_label_quality
from s4m_pipeline.evaluation.refinement_quality import RefinementQuality


def random_masks(rng: np.random.Generator, count: int) -> LabelledMasks:
    masks = np.zeros((count, 12, 12), bool)
    for mask in masks:
        y, x = rng.integers(0, 7, 2)
        mask[y : y + 5, x : x + 5] = True
    return LabelledMasks(rng.integers(0, 2, count), masks)


def test_refinement_quality__overall_figures_equal_those_of_one_kind_alone():
    rng = np.random.default_rng(0)
    truths = [random_masks(rng, 4) for _ in range(30)]
    before = [random_masks(rng, 5) for _ in truths]
    after = [LabelledMasks(b.labels, random_masks(rng, 5).masks) for b in before]
    quality = RefinementQuality(("a", "b"))
    for parts in zip(before, after, truths, strict=True):
        quality.add(*parts)
    figures = quality.as_dict()
    for name, predictions in (("before", before), ("after", after)):
        expected = pseudo_label_quality(predictions, truths)
        assert figures[f"SQ {name}"] == pytest.approx(expected.segmentation_quality, abs=0.01)
        assert figures[f"CA {name}"] == pytest.approx(expected.class_accuracy, abs=0.01)


def test_refinement_quality__shares_count_noticeable_changes_only():
    truth = LabelledMasks(np.zeros(1, int), np.ones((1, 10, 100), bool))
    masks = np.ones((4, 10, 100), bool)
    before, after = masks.copy(), masks.copy()
    before[0, :, :50] = False  # improved
    after[1, :, :50] = False  # worsened
    after[2, 0, :5] = False  # by half a percent
    quality = RefinementQuality(("a",))
    quality.add(LabelledMasks(np.zeros(4, int), before), LabelledMasks(np.zeros(4, int), after), truth)
    assert (quality.as_dict()["improved"], quality.as_dict()["worsened"]) == (25.0, 25.0)


def test_refinement_quality__of_nothing__has_no_figures():
    assert RefinementQuality(("a",)).as_dict()["SQ after"] is None
