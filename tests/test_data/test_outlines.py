"""Outlines: one line for any mask, with which every kind of filling gives the mask again."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage

from s4m_pipeline.data.formats.outlines import fill, outline
from tests.test_data.test_formats import best_of_one_line, iou


def by_area(corners: NDArray, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """As pycocotools fills."""
    return coco_mask.decode(coco_mask.frPyObjects([corners.ravel().tolist()], *size_hw)[0]).astype(bool)


def resampled(corners: NDArray, count: int = 1000) -> NDArray[np.float32]:
    """About so many points of the line, and its corners, as Ultralytics takes them before it fills."""
    closed = np.concatenate([corners, corners[:1]])
    places = np.arange(len(closed))
    more = np.insert(
        x := np.linspace(0, len(closed) - 1, count - len(closed)), np.searchsorted(x, places), places
    )
    return np.stack([np.interp(more, places, closed[:, axis]) for axis in (0, 1)], 1).astype(np.float32)


def largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    return parts == 1 + np.bincount(parts[parts > 0])[1:].argmax()


masks = arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))).filter(np.any)


@given(masks)
def test_outline__any_mask_of_one_part_is_filled_in_every_pixel(mask):
    mask = largest_part(mask)
    corners = outline(mask)
    assert len(corners) >= 4
    np.testing.assert_array_equal(fill(corners, mask.shape), mask)


@given(masks.filter(lambda mask: ndimage.label(mask, np.ones((3, 3)))[1] == 2))
def test_outline__of_two_parts_is_the_best_that_one_line_can_be(mask):
    assert iou(fill(outline(mask), mask.shape), mask) == pytest.approx(best_of_one_line(mask))


def blob(size_px: float, seed: int) -> NDArray[np.bool_]:
    """A tilted ellipse with a hole, cut by the border of the image for odd seeds."""
    rng = np.random.default_rng(seed)
    center = (0 if seed % 2 else size_px, size_px)
    y, x = np.mgrid[: int(2 * size_px) + 2, : int(2 * size_px) + 2] - np.reshape(center, (2, 1, 1))
    turn = rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    r = np.hypot(u, v / rng.uniform(0.6, 1)) / (size_px / 2)
    return largest_part((r < 1) & (r > 0.3))


@pytest.mark.parametrize("size_px", [6, 12, 24, 48])
@pytest.mark.parametrize("seed", range(4))
def test_outline__fills_by_area_and_of_enlarged_images_agree(size_px: int, seed: int):
    mask = blob(size_px, seed)
    corners = outline(mask)
    height, width = mask.shape
    np.testing.assert_array_equal(by_area(corners, mask.shape), mask)
    for scale in (1, 2, 5):
        enlarged = cv2.resize(
            mask.astype(np.uint8), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST
        )
        filled = fill(resampled(corners) * scale, (height * scale, width * scale))
        assert iou(filled, enlarged > 0) >= 0.98


def test_outline__worthless_part_is_left_out_and_its_hole_with_it():
    mask = np.zeros((40, 120), bool)
    mask[5:35, 5:35] = True
    mask[12:16, 12:16] = False
    alone = mask.copy()
    mask[20:23, 110:113] = True  # 8 pixels, 74 pixels away
    mask[21, 111] = False
    np.testing.assert_array_equal(fill(outline(mask), mask.shape), alone)


def test_outline__many_parts_are_connected_by_the_shortest_lines():
    mask = np.zeros((20, 100), bool)
    for left in range(0, 100, 20):
        mask[4:16, left : left + 12] = True
    filled = fill(outline(mask), mask.shape)
    assert not (mask & ~filled).any() and (filled & ~mask).sum() == 4 * 8
