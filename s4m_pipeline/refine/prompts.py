"""Prompts for SAM 2 from the teacher's masks (paper, section 3.2 and its prompt ablation).

Points are drawn with numbers that depend on (seed, generation, image id) alone: the labels of an image do not
depend on how the work was sharded, batched or ordered.

Axes: N instances of one image, h x w the teacher's mask size, K points.
"""

import numpy as np
import torch
from torch import Tensor

from s4m_pipeline.refine.frame import MaskFrame
from s4m_pipeline.refine.recipe import PromptType
from s4m_pipeline.sam.prompts import Prompts


def make_prompts(
    kind: PromptType,
    mask_logits: Tensor,
    frame: MaskFrame,
    *,
    uniforms: Tensor,
    sam_logits_size: tuple[int, int],
) -> Prompts:
    """One prompt per instance, in pixels of the image.

    Args:
        kind: `points` draws K points from the normalised thresholded probability (the paper);
            `points_softmax` from the softmax of the logits over all cells (the released code);
            `point_centre` the mask's cell nearest to its centroid; `point_confident` its most probable cell;
            `box` the binary mask's box; `mask` the logits themselves.
        mask_logits: (N, h, w) float; each has at least one positive cell.
        frame: how the grid of h x w cells lies on the image.
        uniforms: (N, K) float in [0, 1), from `draw_uniforms`; only `points` and `points_softmax` use them.
        sam_logits_size: the size that SAM takes mask prompts in.
    """
    width = mask_logits.shape[2]
    cell_wh_px = torch.tensor(frame.cell_wh_px, device=mask_logits.device)
    image_wh_px = torch.tensor(frame.image_hw_px, device=mask_logits.device).flip(0)
    inside = mask_logits > 0
    if kind == "mask":
        return Prompts(mask_logits=frame.resample(mask_logits.float(), sam_logits_size))
    if kind == "box":
        boxes = boxes_of(inside) * cell_wh_px.repeat(2)
        return Prompts(boxes_xyxy_px=boxes.minimum(image_wh_px.repeat(2)))
    if kind == "points":
        cells = draw_cells(mask_logits.float().sigmoid() * inside, uniforms)
    elif kind == "points_softmax":
        cells = draw_cells(mask_logits.float().flatten(1).softmax(dim=1).view_as(mask_logits), uniforms)
    elif kind == "point_confident":
        cells = mask_logits.flatten(1).argmax(dim=1, keepdim=True)
    else:
        cells = _most_central_cells(inside)[:, None]
    cell_xy = torch.stack([cells % width, cells // width], dim=-1)
    # Integers are pixel centres in SAM's frame: the middle of the first cell of s pixels is s / 2 - 1 / 2.
    points = (cell_xy + 0.5) * cell_wh_px - 0.5
    # The middle of a cell that is mostly padding may lie outside the image.
    return Prompts(points_xy_px=points.minimum(image_wh_px - 1.0))


def draw_uniforms(seed: int, generation: int, image_id: int, num_instances: int, num_points: int) -> Tensor:
    """(N, K) float64 uniform numbers in [0, 1) that belong to this image of this generation."""
    rng = np.random.default_rng([seed, generation, image_id])
    return torch.from_numpy(rng.random((num_instances, num_points)))


def draw_cells(weight: Tensor, uniforms: Tensor) -> Tensor:
    """Draw K cells per instance with probability proportional to `weight`, without replacement.

    Args:
        weight: (N, h, w) float, non-negative, each with a positive sum.
        uniforms: (N, K) float in [0, 1).

    Returns:
        (N, K) int64 indices into the h * w cells. Where fewer than K cells have weight, the first
        drawn one is repeated.
    """
    remaining = weight.flatten(1).double()
    uniforms = uniforms.to(remaining.device)
    drawn: list[Tensor] = []
    for k in range(uniforms.shape[1]):
        cumulative = remaining.cumsum(dim=1)
        total = cumulative[:, -1:]
        # A cell of weight zero adds nothing to the sum, so "first sum above the threshold" never meets one.
        cell = torch.searchsorted(cumulative, uniforms[:, k : k + 1] * total, right=True)[:, 0]
        cell = cell.clamp(max=remaining.shape[1] - 1)
        drawn.append(torch.where(total[:, 0] > 0, cell, drawn[0]) if drawn else cell)
        remaining = remaining.scatter(1, drawn[-1][:, None], 0.0)
    return torch.stack(drawn, dim=1)


def boxes_of(masks: Tensor) -> Tensor:
    """(N, 4) float32 boxes x0, y0, x1, y1 (exclusive end) of non-empty masks (N, h, w) bool, in cells."""
    columns, rows = masks.any(dim=1).int(), masks.any(dim=2).int()
    height, width = masks.shape[1:]
    x0, y0 = columns.argmax(dim=1), rows.argmax(dim=1)
    x1, y1 = width - columns.flip(1).argmax(dim=1), height - rows.flip(1).argmax(dim=1)
    return torch.stack([x0, y0, x1, y1], dim=1).float()


def _most_central_cells(masks: Tensor) -> Tensor:
    """(N,) int64: the mask cell nearest to the mask's centroid, for non-empty masks (N, h, w) bool."""
    height, width = masks.shape[1:]
    ys, xs = torch.meshgrid(
        torch.arange(height, device=masks.device), torch.arange(width, device=masks.device), indexing="ij"
    )
    area = masks.sum(dim=(1, 2)).clamp(min=1)[:, None, None]
    centre_y = (masks * ys).sum(dim=(1, 2), keepdim=True) / area
    centre_x = (masks * xs).sum(dim=(1, 2), keepdim=True) / area
    distance = (ys - centre_y).square() + (xs - centre_x).square()
    return distance.masked_fill(~masks, torch.inf).flatten(1).argmin(dim=1)
