"""Merged-instance rate."""

import math

import numpy as np
from pycocotools import mask as coco_mask

from s4m_cache.masks import Masks
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.evaluation.merging import merged_instance_rate, merged_rate_of_results
from s4m_pipeline.evaluation.pseudo_label_quality import LabeledMasks


def strips(labels: list[int], *spans: tuple[int, int]) -> LabeledMasks:
    masks = np.zeros((len(spans), 1, 20), bool)
    for k, (start, stop) in enumerate(spans):
        masks[k, 0, start:stop] = True
    return LabeledMasks(np.array(labels, int), Masks.from_dense(masks))


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


def test_merged_rate_of_results__only_confident_predictions_count(tiny_coco):
    truth = load_coco(tiny_coco.annotations("val"), tiny_coco.images("val"))
    image = truth.images[0]
    results = [
        {
            "image_id": image.id,
            "category_id": truth.instances(image.id)[0]["category_id"],
            "score": score,
            "segmentation": coco_mask.encode(np.asfortranarray(np.ones((64, 64), np.uint8))),
        }
        for score in (0.9, 0.4)
    ]
    same_class = len({a["category_id"] for a in truth.instances(image.id)}) == 1
    assert merged_rate_of_results(truth, results) == (100 if same_class else 0)
    assert math.isnan(merged_rate_of_results(truth, results[1:]))
