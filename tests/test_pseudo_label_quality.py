"""Segmentation quality and class accuracy."""

import numpy as np
import pytest

from s4m_cache.masks import Masks
from s4m_pipeline.evaluation.pseudo_label_quality import ClassTallies, LabeledMasks, Tally, same_class_iou


def strip(*spans: tuple[int, int]) -> Masks:
    masks = np.zeros((len(spans), 1, 20), bool)
    for k, (start, stop) in enumerate(spans):
        masks[k, 0, start:stop] = True
    return Masks.from_dense(masks)


TRUTH = LabeledMasks(np.array([0, 1]), strip((0, 10), (10, 20)))


def quality(predicted: LabeledMasks) -> Tally:
    tallies = ClassTallies.empty(2)
    tallies.add(
        predicted.labels,
        TRUTH.labels,
        same_class_iou(predicted.labels, predicted.masks, TRUTH.labels, TRUTH.masks),
    )
    return tallies.total


def test_quality__perfect_labels_score_100():
    assert (quality(TRUTH).segmentation_quality, quality(TRUTH).class_accuracy) == (100, 100)


def test_quality__wrong_class_counts_against_accuracy_only():
    found = quality(LabeledMasks(np.array([0, 0]), strip((0, 8), (10, 20))))
    assert found.segmentation_quality == pytest.approx(80)
    assert found.class_accuracy == 50


def test_quality__a_duplicate_is_no_second_true_positive():
    found = quality(LabeledMasks(np.array([0, 0]), strip((0, 10), (0, 9))))
    assert (found.segmentation_quality, found.class_accuracy) == (100, 50)


def test_quality__half_overlap_is_not_enough():
    found = quality(LabeledMasks(np.array([0]), strip((0, 5))))
    assert (found.segmentation_quality, found.class_accuracy) == (None, 0)


def test_quality__no_prediction_has_no_accuracy():
    found = quality(LabeledMasks(np.zeros(0, int), strip()))
    assert (found.class_accuracy, found.predictions, found.objects) == (None, 0, 2)
