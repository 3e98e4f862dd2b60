"""Quality before and after refinement."""

from dataclasses import replace

import numpy as np
import pytest

from s4m_cache.masks import Masks
from s4m_cache.records import Instances
from s4m_pipeline.evaluation.pseudo_label_quality import ClassTallies, LabeledMasks, match_iou, same_class_iou
from s4m_pipeline.evaluation.refinement_quality import RefinementQuality


def random_masks(rng: np.random.Generator, count: int) -> LabeledMasks:
    """Some without pixels."""
    masks = np.zeros((count, 12, 12), bool)
    for mask in masks:
        y, x = rng.integers(0, 7, 2)
        mask[y : y + 5, x : x + 5] = rng.random() < 0.9
    return LabeledMasks(rng.integers(0, 2, count), Masks.from_dense(masks))


def instances(before: LabeledMasks, after: LabeledMasks) -> Instances:
    return Instances.create(
        masks=after.masks, raw_masks=before.masks, labels=after.labels, scores=np.ones(len(after.labels))
    )


def iou_of_sets(found: LabeledMasks, truth: LabeledMasks) -> np.ndarray:
    """(N, M) IoU, 0 where the labels differ, of whole masks pixel by pixel."""
    first, second = found.masks.dense((0, 0, 12, 12))[:, None], truth.masks.dense((0, 0, 12, 12))[None]
    iou = (first & second).sum((2, 3)) / np.maximum((first | second).sum((2, 3)), 1)
    return np.where(found.labels[:, None] == truth.labels[None], iou, 0)


def test_packed_iou__equals_that_of_dense_masks_for_pairs_of_one_class():
    rng = np.random.default_rng(2)
    found, truth = random_masks(rng, 9), random_masks(rng, 7)
    np.testing.assert_array_equal(
        same_class_iou(found.labels, found.masks, truth.labels, truth.masks), iou_of_sets(found, truth)
    )


def test_refinement_quality__overall_figures_equal_those_of_one_kind_alone():
    rng = np.random.default_rng(0)
    truths = [random_masks(rng, 4) for _ in range(30)]
    before = [random_masks(rng, 5) for _ in truths]
    after = [LabeledMasks(b.labels, random_masks(rng, 5).masks) for b in before]
    quality = RefinementQuality(2)
    for raw, refined, truth in zip(before, after, truths, strict=True):
        quality.add(instances(raw, refined), truth)
    figures = quality.as_dict(("a", "b"))
    assert RefinementQuality.from_counts(quality.counts()).as_dict(("a", "b")) == figures
    for name, predictions in (("before", before), ("after", after)):
        pairs = zip(predictions, truths, strict=True)
        matched = [iou for found, truth in pairs for iou in match_iou(iou_of_sets(found, truth))]
        assert figures[f"SQ {name}"] == pytest.approx(100 * np.mean(matched), abs=0.01)
        assert figures[f"CA {name}"] == pytest.approx(100 * len(matched) / (5 * 30), abs=0.01)


def test_refinement_quality__shares_count_noticeable_changes_only():
    truth = LabeledMasks(np.zeros(1, int), Masks.from_dense(np.ones((1, 10, 100), bool)))
    masks = np.ones((4, 10, 100), bool)
    before, after = masks.copy(), masks.copy()
    before[0, :, :50] = False  # improved
    after[1, :, :50] = False  # worsened
    after[2, 0, :5] = False  # by half a percent
    quality = RefinementQuality(1)
    labels = np.zeros(4, int)
    found = (LabeledMasks(labels, Masks.from_dense(masks)) for masks in (before, after))
    quality.add(instances(*found), truth)
    assert (quality.as_dict(("a",))["improved"], quality.as_dict(("a",))["worsened"]) == (25.0, 25.0)


def test_refinement_quality__ignored_instances__count_before_refinement_only():
    rng = np.random.default_rng(3)
    quality, kept = RefinementQuality(2), RefinementQuality(2)
    for _ in range(20):
        before, truth = random_masks(rng, 5), random_masks(rng, 4)
        found = instances(before, LabeledMasks(before.labels, random_masks(rng, 5).masks))
        found = replace(found, ignored=np.array([False, True, False, False, True]))
        quality.add(found, truth)
        kept.add(found.kept, truth)
    assert quality.after.rows() == kept.after.rows()
    assert (quality.improved, quality.worsened) == (kept.improved, kept.worsened)
    assert quality.before.total.predictions == 100
    assert kept.before.total.predictions == 60


def test_refinement_quality__of_nothing__has_no_figures():
    assert RefinementQuality(1).as_dict(("a",))["SQ after"] is None


def test_class_tallies__equal_figures_by_definition_and_add_up_in_any_order():
    rng = np.random.default_rng(1)
    pairs = [(random_masks(rng, 5), random_masks(rng, 4)) for _ in range(20)]
    parts = []
    for found, truth in pairs:
        part = ClassTallies.empty(2)
        part.add(
            found.labels, truth.labels, same_class_iou(found.labels, found.masks, truth.labels, truth.masks)
        )
        parts.append(part)
    ious = [
        match_iou(same_class_iou(found.labels, found.masks, truth.labels, truth.masks))
        for found, truth in pairs
    ]
    matched = [value for values in ious for value in values]
    false_positives, false_negatives = 5 * 20 - len(matched), 4 * 20 - len(matched)
    pq = 100 * sum(matched) / (len(matched) + false_positives / 2 + false_negatives / 2)
    total = sum(parts, ClassTallies.empty(2)).total
    assert total.panoptic_quality == pytest.approx(pq, abs=1e-4)
    assert total.recall == pytest.approx(100 * len(matched) / 80)
    assert sum(parts[::-1], ClassTallies.empty(2)).rows() == sum(parts, ClassTallies.empty(2)).rows()
    assert ClassTallies.from_rows(parts[0].rows()).rows() == parts[0].rows()
