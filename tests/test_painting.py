"""Masks drawn on a photo."""

import numpy as np
import pytest

from s4m_pipeline.visual.painting import TINT, color_of, paint

GRAY = 100
SIDE = 200


def photo() -> np.ndarray:
    return np.full((SIDE, SIDE, 3), GRAY, np.uint8)


def square(top: int, left: int, side: int, size: int = SIDE) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def painted(*masks: np.ndarray, numbers: tuple[int, ...] = (0, 1, 2), lines_only: bool = False) -> np.ndarray:
    chosen = numbers[: len(masks)]
    picture = paint(photo(), np.stack(masks), [""] * len(masks), chosen, lines_only=lines_only)
    return np.asarray(picture).astype(int)


def test_paint__mask__is_tinted_inside_a_line_of_its_color() -> None:
    picture = painted(square(80, 60, 40))
    color = np.array(color_of(0))
    assert (picture[80, 60:100] == color).all() and (picture[80:120, 99] == color).all()
    np.testing.assert_allclose(picture[100, 80], (1 - TINT) * GRAY + TINT * color, atol=1)
    assert (picture[79, 60] == GRAY).all() or (picture[:80] != GRAY).any()  # the name's plate lies above
    assert (picture[150:] == GRAY).all()


def test_paint__lines_only__leaves_the_inside_as_it_is_and_draws_wider() -> None:
    picture = painted(square(80, 60, 40), lines_only=True)
    assert (picture[82:118, 62:98] == GRAY).all()
    assert (picture[81, 61:99] == color_of(0)).all()


def test_paint__first_mask_lies_on_top() -> None:
    picture = painted(square(60, 60, 60), square(90, 90, 60))
    assert (picture[119, 95] == color_of(0)).all()
    assert (picture[149, 120] == color_of(1)).all()


def test_paint__equal_numbers__have_one_color_and_others_another() -> None:
    picture = painted(square(30, 20, 20), square(90, 20, 20), square(150, 20, 20), numbers=(4, 4, 5))
    assert (picture[49, 25] == picture[109, 25]).all()
    assert (picture[49, 25] != picture[169, 25]).any()


@pytest.mark.parametrize("factor", [2, 4])
def test_paint__coarse_mask__covers_the_same_part_of_the_photo(factor: int) -> None:
    coarse = square(80 // factor, 60 // factor, 40 // factor, SIDE // factor)
    np.testing.assert_array_equal(painted(coarse), painted(square(80, 60, 40)))


def test_paint__empty_masks_or_none__leave_the_photo() -> None:
    np.testing.assert_array_equal(painted(np.zeros((SIDE, SIDE), bool)), photo())
    none = paint(photo(), np.zeros((0, SIDE, SIDE), bool), [], [])
    np.testing.assert_array_equal(np.asarray(none), photo())


def test_paint__does_not_write_into_the_photo() -> None:
    given = photo()
    given.flags.writeable = False
    paint(given, square(10, 10, 50)[None], ["cart"], [0])


def test_color_of__neighboring_numbers__are_far_apart() -> None:
    colors = np.array([color_of(number) for number in range(12)])
    assert np.abs(np.diff(colors, axis=0)).sum(1).min() > 100
