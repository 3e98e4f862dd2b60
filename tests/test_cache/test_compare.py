import numpy as np
import pytest

from s4m_cache.compare import compare, compare_image
from s4m_cache.errors import CacheError
from s4m_cache.generation import GenerationSpec
from s4m_cache.generations import begin
from s4m_cache.reader import CacheReader
from s4m_cache.records import Instances
from test_cache.samples import make_labels, make_published


def squares(corners, labels):
    """One 10 x 10 square for each (y, x)."""
    masks = np.zeros((len(corners), 60, 60), bool)
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[y : y + 10, x : x + 10] = True
    return Instances.create(masks=masks, labels=labels, scores=np.ones(len(corners)))


def test_compare_image__each_kind_of_change_is_counted():
    old = squares([(0, 0), (20, 20), (40, 40)], [0, 1, 2])
    new = squares([(20, 22), (0, 0), (0, 40)], [1, 2, 0])

    change = compare_image(7, old, new)

    assert (change.gained, change.lost, change.relabeled) == (1, 1, 1)
    assert sorted(change.ious) == [80 / 120, 1.0]


def test_compare_image__an_instance_is_matched_once_by_the_best():
    old = squares([(0, 0)], [0])
    new = squares([(0, 3), (0, 1)], [0, 0])

    change = compare_image(7, old, new)

    assert (change.gained, change.lost) == (1, 0)
    assert change.ious == (90 / 110,)


def test_compare__generation_with_itself_has_not_changed(tmp_path):
    make_published(tmp_path, range(6))
    with CacheReader.current(tmp_path) as reader:
        change = compare(reader, reader)

    num_instances = sum(len(make_labels(i).instances) for i in range(6))
    assert (change.kept, change.num_changed, change.mean_iou) == (num_instances, 0, 1.0)


def test_compare__images_of_one_only_are_counted(tmp_path):
    old, new = make_published(tmp_path, [1, 2, 3]), make_published(tmp_path, [3, 4], number=2)
    with CacheReader(old) as a, CacheReader(new) as b:
        change = compare(a, b)

    assert (change.num_images, change.only_old, change.only_new) == (1, 2, 1)


def test_compare__other_classes_are_refused(tmp_path):
    make_published(tmp_path / "a", [1])
    spec = GenerationSpec(image_ids=[1], classes=["x"], category_ids=[1], num_shards=1, fingerprint={})
    other = begin(tmp_path / "b", spec)
    with (
        CacheReader.current(tmp_path / "a") as a,
        CacheReader(other) as b,
        pytest.raises(CacheError, match="different classes"),
    ):
        compare(a, b)
