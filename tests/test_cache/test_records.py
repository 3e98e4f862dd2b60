import numpy as np
import pytest

from s4m_cache.errors import CacheError
from s4m_cache.masks import Masks
from s4m_cache.records import ImageLabels, Instances, check
from test_cache.samples import make_labels


def test_instances__without_teachers_masks_they_are_the_same():
    instances = Instances.create(masks=np.ones((2, 3, 3), bool), labels=[0, 1], scores=[0.8, 0.9])

    assert instances.raw_ious.tolist() == [1, 1]
    assert np.isnan(instances.pred_ious).all()
    assert instances.labels.dtype == np.int16


def test_instances__raw_iou_is_measured():
    raw = np.zeros((1, 4, 4), bool)
    raw[0, :2] = True

    instances = Instances.create(masks=np.ones((1, 4, 4), bool), raw_masks=raw, labels=[0], scores=[1])

    assert instances.raw_ious.tolist() == [0.5]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": [0]}, "one entry per instance"),
        ({"raw_masks": Masks.empty(3)}, "one entry per instance"),
        ({"labels": [0, -1]}, "class indices"),
        ({"labels": [0, 70_000]}, "class indices"),
        ({"scores": [0.5, np.nan]}, "finite"),
    ],
    ids=["short", "raw", "negative", "large", "nan"],
)
def test_instances__inconsistent_are_refused(change, message):
    arguments = {"masks": Masks.empty(2), "labels": [0, 1], "scores": [0.5, 0.6]}
    with pytest.raises(CacheError, match=message):
        Instances.create(**arguments | change)


def test_check__label_or_box_that_does_not_fit_is_refused():
    labels = make_labels(3, count=2)
    check(labels, num_classes=3)

    with pytest.raises(CacheError, match=r"image 3 .*label"):
        check(labels, num_classes=int(labels.instances.labels.max()))
    small = ImageLabels(image_id=3, height=5, width=5, instances=labels.instances)
    with pytest.raises(CacheError, match="not inside"):
        check(small, num_classes=3)


def test_instances__select_keeps_columns_together():
    instances = make_labels(1, count=5).instances

    chosen = instances.select(np.array([4, 2]))

    assert chosen.scores.tolist() == instances.scores[[4, 2]].tolist()
    np.testing.assert_array_equal(chosen.raw_masks.boxes, instances.raw_masks.boxes[[4, 2]])
