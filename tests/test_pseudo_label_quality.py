"""Segmentation quality and class accuracy."""

import math

import numpy as np
import pytest

from s4m_pipeline.evaluation.pseudo_label_quality import LabelledMasks, mask_iou, pseudo_label_quality


def strip(*spans: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(spans), 1, 20), bool)
    for k, (start, stop) in enumerate(spans):
        masks[k, 0, start:stop] = True
    return masks


TRUTH = LabelledMasks(np.array([0, 1]), strip((0, 10), (10, 20)))


def test_quality__perfect_labels_score_100():
    quality = pseudo_label_quality([TRUTH], [TRUTH])
    assert (quality.segmentation_quality, quality.class_accuracy) == (100, 100)


def test_quality__wrong_class_counts_against_accuracy_only():
    predicted = LabelledMasks(np.array([0, 0]), strip((0, 8), (10, 20)))
    quality = pseudo_label_quality([predicted], [TRUTH])
    assert quality.segmentation_quality == pytest.approx(80)
    assert quality.class_accuracy == 50
    assert quality.mean_best_iou == pytest.approx(90)


def test_quality__a_duplicate_is_no_second_true_positive():
    predicted = LabelledMasks(np.array([0, 0]), strip((0, 10), (0, 9)))
    quality = pseudo_label_quality([predicted], [TRUTH])
    assert (quality.segmentation_quality, quality.class_accuracy) == (100, 50)


def test_quality__half_overlap_is_not_enough():
    predicted = LabelledMasks(np.array([0]), strip((0, 5)))
    quality = pseudo_label_quality([predicted], [TRUTH])
    assert math.isnan(quality.segmentation_quality)
    assert quality.class_accuracy == 0


def test_quality__no_prediction_is_not_a_number():
    nothing = LabelledMasks(np.zeros(0, int), strip())
    quality = pseudo_label_quality([nothing], [TRUTH])
    assert math.isnan(quality.class_accuracy)
    assert (quality.num_predictions, quality.num_objects) == (0, 2)


def test_mask_iou__equals_set_arithmetic():
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 6, 5)) > 0.5, rng.random((4, 6, 5)) > 0.5
    expected = [[(x & y).sum() / (x | y).sum() for y in b] for x in a]
    np.testing.assert_allclose(mask_iou(a, b), expected)
