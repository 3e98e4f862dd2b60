"""Merged-instance rate."""

import math

import numpy as np

from s4m_pipeline.evaluation.merging import merged_instance_rate
from s4m_pipeline.evaluation.pseudo_label_quality import LabelledMasks


def strips(labels: list[int], *spans: tuple[int, int]) -> LabelledMasks:
    masks = np.zeros((len(spans), 1, 20), bool)
    for k, (start, stop) in enumerate(spans):
        masks[k, 0, start:stop] = True
    return LabelledMasks(np.array(labels, int), masks)


TRUTH = strips([0, 0, 1], (0, 5), (5, 11), (11, 20))


def test_merged_instance_rate__two_objects_in_one_mask_count():
    predicted = strips([0, 0], (0, 9), (0, 5))
    assert merged_instance_rate([predicted], [TRUTH]) == 50


def test_merged_instance_rate__less_than_half_of_the_second_does_not_count():
    assert merged_instance_rate([strips([0], (0, 7))], [TRUTH]) == 0


def test_merged_instance_rate__other_classes_do_not_count():
    assert merged_instance_rate([strips([1], (0, 20))], [TRUTH]) == 0
    assert merged_instance_rate([strips([0], (5, 20))], [TRUTH]) == 0


def test_merged_instance_rate__no_prediction_is_not_a_number():
    assert math.isnan(merged_instance_rate([strips([])], [TRUTH]))
