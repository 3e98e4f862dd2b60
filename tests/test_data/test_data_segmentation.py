"""Masks are judged in Python: what passes is safe for native code, and decoding agrees with it."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from s4m_cache.segmentation import SegmentationError, decode, decode_counts
from s4m_pipeline.data.findings import Problem
from s4m_pipeline.data.segmentation import mask_faults, pack_segmentations

HEIGHT, WIDTH = 16, 24
SIZE = [HEIGHT, WIDTH]


def encode(mask):
    rle = coco_mask.encode(np.asfortranarray(mask))
    return rle["counts"].decode()


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 1)))
def test_decode_counts__any_mask_gives_its_runs(mask):
    runs = decode_counts(encode(mask))
    pixels = np.repeat(np.arange(len(runs)) % 2, runs)
    assert (pixels == mask.ravel(order="F")).all()


@pytest.mark.parametrize("side", [1000, 9000], ids=["megapixel", "81 megapixels"])
def test_decode_counts__long_runs_are_exact(side):
    runs = [side * side // 3, 7, side * side // 2, 1]
    runs.append(side * side - sum(runs))
    rle = coco_mask.frPyObjects({"size": [side, side], "counts": runs}, side, side)
    assert decode_counts(rle["counts"].decode()) == runs


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner)
    ),
    max_leaves=20,
)
rle_like = st.fixed_dictionaries(
    {
        "size": st.just(SIZE) | json_values,
        "counts": st.text(st.characters(min_codepoint=40, max_codepoint=120))
        | st.lists(st.integers(-2, 400)),
    }
)


@given(json_values | rle_like | st.lists(st.lists(st.floats() | st.integers(), max_size=9)))
def test_mask_faults__what_passes_is_decoded_by_native_code(segmentation):
    if not mask_faults(segmentation, None, HEIGHT, WIDTH):
        segmentation = json.loads(json.dumps(segmentation))
        if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH)
        assert coco_mask.decode(segmentation).shape[:2] == (HEIGHT, WIDTH)


SOUND = np.zeros((HEIGHT, WIDTH), np.uint8)
SOUND[3:9, 5:20] = 1

FAULTS = {
    "none": (None, Problem.MASK_FAULTY),
    "empty object": ({}, Problem.MASK_FAULTY),
    "flat polygon": ([1, 1, 5, 1, 5, 5], Problem.MASK_FAULTY),
    "odd polygon": ([[1, 1, 5, 1, 5, 5, 6]], Problem.MASK_FAULTY),
    "two points": ([[1, 1, 5, 1]], Problem.MASK_FAULTY),
    "text": ([["1", "1", "5", "1", "5", "5"]], Problem.MASK_FAULTY),
    "NaN": ([[1, 1, 5, float("nan"), 5, 5]], Problem.MASK_FAULTY),
    "infinities that cancel": ([[float("inf"), float("-inf"), 5, 1, 5, 5]], Problem.MASK_FAULTY),
    "far away": ([[1, 1, 1e9, 1, 5, 5]], Problem.MASK_FAULTY),
    "huge integer": ([[1, 1, 10**400, 1, 5, 5]], Problem.MASK_FAULTY),
    "one part short": ([[1, 1, 5, 1, 5, 5], [1, 1, 2, 2]], Problem.MASK_PART_SHORT),
    "counts too few": ({"size": SIZE, "counts": [10, 10]}, Problem.MASK_FAULTY),
    "counts too many": ({"size": SIZE, "counts": [10, 10**9]}, Problem.MASK_FAULTY),
    "counts negative": ({"size": SIZE, "counts": [-16, 400]}, Problem.MASK_FAULTY),
    "counts floats": ({"size": SIZE, "counts": [184.0, 200.0]}, Problem.MASK_FAULTY),
    "counts missing": ({"size": SIZE}, Problem.MASK_FAULTY),
    "size of another image": ({"size": [24, 16], "counts": [384]}, Problem.MASK_FAULTY),
    "size floats": ({"size": [16.0, 24.0], "counts": [84, 300]}, Problem.MASK_FAULTY),
    "string cut": ({"size": SIZE, "counts": encode(SOUND)[:-3]}, Problem.MASK_FAULTY),
    "string empty": ({"size": SIZE, "counts": ""}, Problem.MASK_FAULTY),
    "string not RLE": ({"size": SIZE, "counts": "é !"}, Problem.MASK_FAULTY),
    "string never ends": ({"size": SIZE, "counts": "o" * 50}, Problem.MASK_FAULTY),
    "no pixel": ({"size": SIZE, "counts": [384]}, Problem.MASK_EMPTY),
}


@pytest.mark.parametrize(("segmentation", "problem"), FAULTS.values(), ids=FAULTS)
def test_mask_faults__malformed_mask_is_named(segmentation, problem):
    (fault,) = mask_faults(segmentation, None, HEIGHT, WIDTH)
    assert fault.problem is problem


@pytest.mark.parametrize(
    "segmentation",
    [[[1, 1, 5, 1, 5, 5]], [[-1.5, 0, 25, 0, 25, 17.0]], {"size": SIZE, "counts": encode(SOUND)}],
    ids=["polygon", "polygon a little outside", "compressed"],
)
def test_mask_faults__sound_mask_has_none(segmentation):
    assert mask_faults(segmentation, None, HEIGHT, WIDTH) == []


coordinates = st.floats(-8, 32, width=32)
slivers = st.builds(
    lambda x, y, run, rise, wide: [x, y, x + run, y + rise, x + run, y + rise + wide, x, y + wide],
    *[st.floats(0, 10) for _ in range(4)],
    st.floats(0, 2),
)


@given(st.lists(coordinates, min_size=6, max_size=20).filter(lambda found: len(found) % 2 == 0) | slivers)
def test_mask_faults__polygon_is_empty_exactly_if_it_is_drawn_without_pixels(polygon):
    drawn = coco_mask.merge(coco_mask.frPyObjects([polygon], HEIGHT, WIDTH))
    found = [fault.problem for fault in mask_faults([polygon], None, HEIGHT, WIDTH)]
    assert found == ([] if coco_mask.area(drawn) else [Problem.MASK_EMPTY])


LOW = np.zeros((HEIGHT, WIDTH), np.uint8)
LOW[8:14, 12:20] = 1
APART = {
    "corners for a size": [12, 8, 20, 14],
    "half the scale": [6, 4, 4, 3],
    "beside it": [0, 1, 4, 4],
}


@pytest.mark.parametrize("box", APART.values(), ids=APART)
@pytest.mark.parametrize(
    "segmentation",
    [[[12, 8, 20, 8, 20, 14, 12, 14]], {"size": SIZE, "counts": encode(LOW)}],
    ids=["polygon", "RLE"],
)
def test_mask_faults__box_far_from_the_mask__is_named(segmentation, box):
    (fault,) = mask_faults(segmentation, box, HEIGHT, WIDTH)
    assert fault.problem is Problem.BOX_MASK_APART
    assert mask_faults(segmentation, [13, 9, 7, 5], HEIGHT, WIDTH) == []


points = st.floats(-5, 30) | st.integers(-5, 30)
polygons = st.lists(st.lists(points, min_size=6, max_size=12).filter(lambda p: len(p) % 2 == 0), min_size=1)
masks = arrays(np.uint8, tuple(SIZE), elements=st.integers(0, 1))


@given(st.lists(polygons | masks.map(lambda mask: {"size": SIZE, "counts": encode(mask)}), max_size=4))
def test_pack_segmentations__pixels_are_those_of_the_whole_mask(segmentations):
    packed = pack_segmentations(segmentations, HEIGHT, WIDTH)
    assert len(packed) == len(segmentations)
    for mask, segmentation in zip(packed.dense((0, 0, HEIGHT, WIDTH)), segmentations, strict=True):
        assert np.array_equal(mask, decode(segmentation, HEIGHT, WIDTH))


def test_pack_segmentations__malformed_one__is_refused():
    with pytest.raises(SegmentationError):
        pack_segmentations([[[1, 2, 3]]], HEIGHT, WIDTH)
