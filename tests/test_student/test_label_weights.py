"""Laws of labels that count by their scores, of outlines that count less, and of labels matched in number."""

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from s4m_cache.reader import CacheReader
from s4m_cache.records import ImageLabels, Instances
from s4m_pipeline.student.pseudo_labels import matching_scores
from tests.test_head import batch, heads, losses_and_gradients  # noqa: F401
from tests.test_student.labeled_scenes import publish_labels
from tests.test_student.test_pseudo_labels import build, cache, written  # noqa: F401

pytestmark = pytest.mark.usefixtures("points_by_purpose")


def weighted(objects, class_weight, mask_weight):
    """The same objects with these weights."""
    weights = torch.tensor([class_weight, mask_weight])
    return [
        InstanceData(labels=image.labels, masks=image.masks, weights=weights.expand(len(image.labels), 2))
        for image in objects
    ]


def test_weights__of_the_masks__scale_their_losses_and_nothing_else(heads):  # noqa: F811
    logits, masks, objects = batch((4, 0, 3))
    plain, _ = losses_and_gradients(heads[0], logits, masks, objects)
    found, _ = losses_and_gradients(heads[0], logits, masks, weighted(objects, 1.0, 0.25))
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value if name.endswith("cls") else 0.25 * value)


def test_weights__of_the_classes__are_the_weights_in_a_mean_over_queries(heads):  # noqa: F811
    """Class losses with weight w: (w A + B) / (w a + b), with A of matched queries, B of the others."""
    logits, masks, objects = batch((4, 3))
    at = {
        weight: losses_and_gradients(heads[0], logits, masks, weighted(objects, weight, 1.0))[0]
        for weight in (0.0, 1.0, 0.5)
    }
    matched, others = 7.0, 0.1 * (2 * 15 - 7)
    for name in (name for name in at[1.0] if name.endswith("cls")):
        rest = at[0.0][name] * others
        own = at[1.0][name] * (matched + others) - rest
        torch.testing.assert_close(at[0.5][name], (0.5 * own + rest) / (0.5 * matched + others))
        assert at[0.5][name] != at[1.0][name]


def test_outline_weight__counts_pixels_by_their_distance_from_the_outline(heads):  # noqa: F811
    head = heads[0]
    logits, masks, objects = batch((1,))
    objects[0].masks[:] = False
    objects[0].masks[..., 32:] = True
    plain, _ = losses_and_gradients(head, logits, masks, objects)
    from s4m_pipeline.models.matching import Branch, Objects

    branch = Branch(logits, masks, objects, head.class_weight, outline_weight=0.25)
    x = torch.tensor([8.0, 27.4, 32.0, 37.6, 56.0]) / 64
    points = torch.stack([x, torch.full_like(x, 0.5)], dim=1)[None]
    found = branch.outline_weights(Objects.of(objects), points)[0]
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 0.25, 1.0, 1.0]), atol=1e-3, rtol=0)
    torch.manual_seed(5)
    (softer,) = head.losses_of([branch])
    assert all((softer[name] < value) == name.endswith("mask") for name, value in plain.items())
    assert all(torch.equal(softer[name], plain[name]) for name in plain if not name.endswith("mask"))


def scattered(image_id, scores, labels, **more):
    """Labels with these scores, each of one pixel row."""
    masks = np.zeros((len(scores), 64, 64), np.bool_)
    for row, mask in enumerate(masks):
        mask[row] = True
    found = Instances.create(masks=masks, labels=labels, scores=scores, **more)
    return ImageLabels(image_id=image_id, height=64, width=64, instances=found)


def test_matching_scores__let_so_many_labels_of_each_class_pass(tmp_path):
    rng = np.random.default_rng(0)
    scores, labels = rng.random((4, 10)).astype(np.float32), rng.integers(0, 2, (4, 10))
    images = [scattered(i + 1, scores[i], labels[i]) for i in range(4)]
    with CacheReader(publish_labels(tmp_path, 1, images)) as reader:
        for wanted in ([1.5, 2.0], [0.0, 0.25], [0.25, 99.0]):
            least = matching_scores(reader, wanted)
            passed = [(scores[labels == k] >= least[k]).sum() for k in range(2)]
            assert passed == [min(round(4 * wanted[k]), (labels == k).sum()) for k in range(2)]


def test_matching_scores__do_not_count_ignored_labels(tmp_path):
    image = scattered(1, [0.9, 0.8, 0.7], [0, 0, 0], ignored=[True, False, False])
    with CacheReader(publish_labels(tmp_path, 1, [image])) as reader:
        assert matching_scores(reader, [1.0, 0.0]).tolist() == pytest.approx([0.8, np.inf])


def test_pseudo_labels__keep_their_own_scores_through_the_transforms(build, cache):  # noqa: F811
    """The class of a label follows from its row, and so do its scores."""
    rows = np.arange(20)
    labels, scores, estimates = rows % 2, 0.5 + rows / 50, 0.3 + rows / 40
    images = [scattered(i, scores, labels, pred_ious=estimates) for i in range(1, 7)]
    publish_labels(cache, 3, images)
    dataset, seen = build(score_weights=True), 0
    dataset.use_generation(3)
    for place in range(len(dataset)):
        found = dataset[place]["data_samples"].gt_instances
        row = torch.round(50 * (found.weights[:, 0] - 0.5)).long()
        assert torch.equal(found.labels, row % 2)
        torch.testing.assert_close(found.weights[:, 1], 0.3 + row / 40)
        seen += len(row)
    assert 0 < seen < 6 * 20  # crops dropped some

    few = build(objects_per_image=[2.0, 1.0], score_weights=True)
    few.use_generation(3)
    taken = torch.cat([few[place]["data_samples"].gt_instances.weights for place in range(len(few))])
    assert len(taken) and taken[:, 0].min() > 0.5 + 15.5 / 50
