import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from s4m_cache.errors import CacheError
from s4m_cache.masks import Masks, iou, packed_sizes
from s4m_cache.segmentation import encode

dense_masks = st.tuples(st.integers(0, 4), st.integers(1, 21), st.integers(1, 21)).flatmap(
    lambda shape: hnp.arrays(np.bool_, shape)
)
sparse_masks = st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda shape: hnp.arrays(np.bool_, shape, fill=st.just(False))
)
any_masks = dense_masks | sparse_masks


@given(any_masks)
def test_masks__any_pixels_come_back(dense):
    height, width = dense.shape[1:]

    masks = Masks.from_dense(dense)

    np.testing.assert_array_equal(masks.dense((0, 0, height, width)), dense)
    np.testing.assert_array_equal(masks.areas, dense.sum(axis=(1, 2)))
    assert masks.bits.size == packed_sizes(masks.boxes).sum()


@given(any_masks, st.tuples(*[st.integers(-5, 45)] * 4))
def test_masks__any_window_equals_slice_of_whole(dense, corners):
    y0, y1 = sorted(corners[:2])
    x0, x1 = sorted(corners[2:])
    padded = np.pad(dense, ((0, 0), (5, 50), (5, 50)))

    window = Masks.from_dense(dense).dense((y0, x0, y1, x1))

    assert window.dtype == np.bool_
    np.testing.assert_array_equal(window, padded[:, y0 + 5 : y1 + 5, x0 + 5 : x1 + 5])


@given(any_masks)
def test_masks__boxes_are_tight(dense):
    masks = Masks.from_dense(dense)

    for box, crop in zip(masks.boxes, masks.crops(), strict=True):
        assert crop.shape == (box[2] - box[0], box[3] - box[1])
        if crop.size:
            assert crop[0].any() and crop[-1].any() and crop[:, 0].any() and crop[:, -1].any()
        else:
            assert box.tolist() == [0, 0, 0, 0]


@given(any_masks, st.randoms())
def test_masks__select_equals_packing_the_selection(dense, random):
    index = np.array([random.randrange(len(dense)) for _ in range(5)] if len(dense) else [], np.int64)

    chosen = Masks.from_dense(dense).select(index)

    expected = Masks.from_dense(dense[index])
    np.testing.assert_array_equal(chosen.boxes, expected.boxes)
    np.testing.assert_array_equal(chosen.bits, expected.bits)


@given(st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(lambda s: hnp.arrays(np.bool_, (2, *s))))
def test_iou__any_pair_equals_dense_formula(pair):
    masks = Masks.from_dense(pair)

    union = (pair[0] | pair[1]).sum()
    expected = (pair[0] & pair[1]).sum() / union if union else np.nan

    np.testing.assert_equal(iou(masks, 0, masks, 1), expected)


@pytest.mark.parametrize("shape, dtype", [((4, 4), bool), ((1, 4, 4), np.float32)], ids=["2d", "float"])
def test_masks__wrong_array_is_refused(shape, dtype):
    with pytest.raises(CacheError, match="bool \\[M, H, W\\]"):
        Masks.from_dense(np.zeros(shape, dtype))


@given(any_masks, st.integers(0, 9), st.integers(0, 9), st.lists(st.lists(st.integers(0, 3), min_size=1)))
def test_masks__shifted_and_united__equal_those_of_dense_masks(dense, y, x, drawn):
    count, height, width = dense.shape
    groups = [sorted({index % count for index in group}) for group in drawn] if count else []
    masks = Masks.from_dense(dense)
    moved = np.pad(dense, ((0, 0), (y, 9 - y), (x, 9 - x)))

    united = masks.shifted(y, x).united([np.array(group) for group in groups])

    window = (0, 0, height + 9, width + 9)
    expected = np.array([moved[group].any(axis=0) for group in groups]).reshape(-1, *window[2:])
    np.testing.assert_array_equal(united.dense(window), expected)
    np.testing.assert_array_equal(united.boxes, Masks.from_dense(expected.astype(np.bool_)).boxes)
    for mask, other in zip(united.each(window), expected, strict=True):
        np.testing.assert_array_equal(mask, other)


@given(any_masks)
def test_encode__any_masks__are_as_pycocotools_encodes_them(dense):
    height, width = dense.shape[1:]
    found = list(encode(Masks.from_dense(dense), height, width))
    for mask, rle in zip(dense, found, strict=True):
        expected = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        assert rle == {"size": [height, width], "counts": expected["counts"].decode()}
