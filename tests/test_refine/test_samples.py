"""Samples of validation labels: measured, joined, stored, and matched as tallies are."""

import numpy as np

from s4m_cache.masks import Masks
from s4m_cache.records import ImageLabels, Instances
from s4m_pipeline.evaluation.pseudo_label_quality import ClassTallies, same_class_iou
from s4m_pipeline.refine.samples import Samples

SIDE = 40
NUM_CLASSES = 3


def squares(rng: np.random.Generator, corners: np.ndarray, jitter: int) -> np.ndarray:
    masks = np.zeros((len(corners), SIDE, SIDE), bool)
    for mask, (y, x) in zip(masks, corners + rng.integers(-jitter, jitter + 1, corners.shape), strict=True):
        mask[max(y, 0) : y + 12, max(x, 0) : x + 12] = True
    return masks


def scene(image_id: int) -> tuple[ImageLabels, np.ndarray, Masks]:
    """Overlapping objects, and labels of which some are doubled, misnamed or without an object."""
    rng = np.random.default_rng(image_id)
    corners, classes = rng.integers(0, SIDE - 12, (5, 2)), rng.integers(NUM_CLASSES, size=5)
    found = rng.integers(5, size=9)
    labels = np.where(rng.random(9) < 0.8, classes[found], rng.integers(NUM_CLASSES, size=9))
    instances = Instances.create(
        masks=squares(rng, corners[found], 4),
        raw_masks=squares(rng, corners[found], 4),
        labels=labels,
        scores=np.linspace(0.9, 0.7, 9),
        pred_ious=rng.random(9),
    )
    labels_of_image = ImageLabels(image_id=image_id, height=SIDE, width=SIDE, instances=instances)
    return labels_of_image, classes, Masks.from_dense(squares(rng, corners, 0))


def test_tallies__of_any_choice_of_masks_are_those_of_class_tallies() -> None:
    scenes = [scene(image_id) for image_id in range(20)]
    samples = Samples.join([Samples.of(*entry) for entry in reversed(scenes)])
    use_raw, ignored = np.random.default_rng(0).random((2, len(samples.image))) < [[0.5], [0.2]]
    counts = samples.tallies(use_raw, ignored, np.arange(20), NUM_CLASSES)
    for image_id, (labels, classes, objects) in enumerate(scenes):
        instances, of_image = labels.instances, samples.image == image_id
        masks = Masks.where(use_raw[of_image], instances.raw_masks, instances.masks)
        kept = ~ignored[of_image]
        found, masks = instances.labels[kept], masks.select(kept)
        tallies = ClassTallies.empty(NUM_CLASSES)
        tallies.add(found, classes, same_class_iou(found, masks, classes, objects))
        assert counts[image_id].tolist() == [[row[0], *row[2:]] for row in tallies.rows()]
    assert counts[..., 1].sum() > 20


def test_samples__iou_is_that_with_the_object_that_either_mask_fits_best() -> None:
    labels, classes, objects = scene(3)
    samples = Samples.of(labels, classes, objects)
    instances = labels.instances
    for masks, column in ((instances.raw_masks, 0), (instances.refined_masks, 1)):
        zeros = np.zeros(9, int), np.zeros(5, int)
        best = same_class_iou(zeros[0], masks, zeros[1], objects).max(axis=1)
        assert (samples.iou[:, column] <= best + 1e-6).all()
        assert (samples.iou.max(axis=1) >= best - 1e-6).all()


def test_samples__right_labels_are_those_with_an_object_of_their_class_below_a_mask() -> None:
    labels, classes, objects = scene(3)
    instances, samples = labels.instances, Samples.of(labels, classes, objects)
    ious = [
        same_class_iou(instances.labels, masks, classes, objects).max(axis=1)
        for masks in (instances.raw_masks, instances.refined_masks)
    ]
    expected = np.maximum(*ious) > 0.5
    assert samples.right.tolist() == expected.tolist()
    assert 0 < expected.sum() < len(expected)


def test_samples__without_labels_or_objects_and_as_json() -> None:
    labels, classes, objects = scene(1)
    nothing = ImageLabels(
        image_id=7, height=SIDE, width=SIDE, instances=labels.instances.select(np.zeros(9, bool))
    )
    empty = Samples.of(nothing, classes, objects)
    assert len(empty.image) == 0
    no_objects = Samples.of(labels, classes[:0], objects.select(np.zeros(5, bool)))
    assert not no_objects.iou.any()
    assert not len(no_objects.pair)
    joined = Samples.join([empty, Samples.of(labels, classes, objects), Samples.join([])])
    again = Samples.from_record(joined.as_record())
    for name, values in vars(joined).items():
        np.testing.assert_array_equal(getattr(again, name), values)
