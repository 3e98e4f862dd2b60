"""Prompts drawn from the teacher's masks."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s4m_pipeline.config.groups import PromptType
from s4m_pipeline.refine.prompts import draw_cells, draw_uniforms, make_prompts
from s4m_pipeline.refine.selection import MaskFrame

FRAME = MaskFrame((64, 128), (64, 128))


def prompts_for(kind, mask_logits, frame=FRAME, num_points=3, seed=0):
    uniforms = draw_uniforms(seed, 0, 17, len(mask_logits), num_points)
    return make_prompts(kind, mask_logits, frame, uniforms=uniforms, sam_logits_size=(48, 48))


def test_draw_cells__frequencies_follow_the_weights():
    weight = torch.tensor([[[1.0, 0.0, 3.0, 6.0]]]).expand(20000, 1, 4)
    first = draw_cells(weight, torch.from_numpy(np.random.default_rng(0).random((20000, 1))))[:, 0]
    share = torch.bincount(first, minlength=4) / len(first)
    torch.testing.assert_close(share, torch.tensor([0.1, 0.0, 0.3, 0.6]), atol=0.012, rtol=0)


def test_draw_cells__second_draw_renormalizes_what_is_left():
    weight = torch.tensor([[[1.0, 0.0, 3.0, 6.0]]]).expand(20000, 1, 4)
    cells = draw_cells(weight, torch.from_numpy(np.random.default_rng(1).random((20000, 2))))
    after_the_largest = cells[cells[:, 0] == 3][:, 1]
    share = torch.bincount(after_the_largest, minlength=4) / len(after_the_largest)
    torch.testing.assert_close(share, torch.tensor([0.25, 0.0, 0.75, 0.0]), atol=0.012, rtol=0)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), cells=st.integers(1, 30), count=st.integers(1, 6))
def test_draw_cells__points_differ_and_never_leave_the_mask(data, cells, count):
    weights = data.draw(
        st.lists(st.sampled_from([0.0, 1e-6, 0.5, 1.0]), min_size=cells, max_size=cells).filter(any)
    )
    uniform = st.floats(0, 1, exclude_max=True)
    uniforms = data.draw(st.lists(uniform, min_size=count, max_size=count))
    weight = torch.tensor(weights).reshape(1, 1, -1)
    drawn = draw_cells(weight, torch.tensor([uniforms], dtype=torch.float64))[0].tolist()
    available = int((weight > 0).sum())
    assert all(weights[cell] > 0 for cell in drawn)
    assert len(set(drawn)) == min(count, available)


def test_draw_uniforms__depend_on_seed_generation_and_image_only():
    assert torch.equal(draw_uniforms(1, 2, 3, 5, 3), draw_uniforms(1, 2, 3, 5, 3))
    for other in ((9, 2, 3), (1, 9, 3), (1, 2, 9)):
        assert not torch.equal(draw_uniforms(1, 2, 3, 5, 3), draw_uniforms(*other, 5, 3))


def test_make_prompts__a_cell_becomes_the_middle_of_its_pixels():
    logits = torch.full((1, 16, 32), -5.0)
    logits[0, 3, 10] = 5.0
    for kind in ("points", "point_centre", "point_confident"):
        points = prompts_for(kind, logits).points_xy_px
        # Stride 4: cell 10 holds pixels 40..43, whose middle is 41.5 where integers are pixel centers.
        assert points[0, 0].tolist() == [41.5, 13.5]
    assert prompts_for("box", logits).boxes_xyxy_px.tolist() == [[40, 12, 44, 16]]


@pytest.mark.parametrize("kind", [k for k in get_args(PromptType) if k.startswith("point")])
def test_make_prompts__points_of_confident_masks_lie_inside(kind):
    logits = torch.full((2, 16, 32), -12.0)
    logits[0, 2:9, 3:12] = 4.0
    logits[1, 8:15, 20:31] = 4.0
    points = prompts_for(kind, logits).points_xy_px / 4
    for instance, (top, bottom, left, right) in enumerate([(2, 9, 3, 12), (8, 15, 20, 31)]):
        x, y = points[instance].unbind(-1)
        assert ((left - 0.5 < x) & (x < right) & (top - 0.5 < y) & (y < bottom)).all()


def test_make_prompts__center_of_a_ring_is_moved_onto_it():
    logits = torch.full((1, 9, 9), -5.0)
    logits[0, 1:8, 1:8] = 5.0
    logits[0, 2:7, 2:7] = -5.0
    prompts = prompts_for("point_centre", logits, MaskFrame((36, 36), (36, 36)))
    x, y = (prompts.points_xy_px[0, 0] / 4).long().tolist()
    assert logits[0, y, x] > 0


def test_make_prompts__mask_takes_the_size_that_sam_wants():
    assert prompts_for("mask", torch.randn(3, 16, 32)).mask_logits.shape == (3, 48, 48)


def test_make_prompts__cells_of_a_resized_and_padded_image_lie_where_the_image_is():
    # Seen at 100 x 49 by the network: the 13th row of cells has one row of pixels and three of padding.
    logits = torch.full((1, 13, 25), -5.0)
    logits[0, 12, 24] = 5.0
    frame = MaskFrame((50, 100), (49, 100))
    assert frame.grid_hw == (13, 25)
    (x, y), (left, top, right, bottom) = (
        prompts_for("point_confident", logits, frame).points_xy_px[0, 0].tolist(),
        prompts_for("box", logits, frame).boxes_xyxy_px[0].tolist(),
    )
    assert (x, y) == (97.5, 49.0)  # the cell's middle is in the padding: moved to the last row of pixels
    assert (left, right, bottom) == (96, 100, 50)
    assert top == pytest.approx(48 * 50 / 49)


def test_resample__covers_exactly_the_image_without_its_padding():
    ramp = torch.arange(26.0).expand(1, 13, 26)
    frame = MaskFrame((100, 202), (50, 101))
    fine = frame.resample(ramp, (100, 202))
    assert fine.shape == (1, 100, 202)
    # Pixel 100.5 of 202 is input pixel 50, which lies in cell (50 + 0.5) / 4 - 0.5.
    torch.testing.assert_close(
        fine[0, 0, 100:102].mean(), torch.tensor(50.5 / 4 - 0.5 + 0.0), atol=0.13, rtol=0
    )
