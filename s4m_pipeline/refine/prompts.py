"""SAM 2 redraws the teacher's masks, from prompts drawn from them (paper, section 3.2 and prompt ablation).

Points are drawn with numbers that depend on (seed, generation, image id) alone: the labels of an image do not
depend on how the work was sharded, batched or ordered.

Axes: N instances of one image, h x w the teacher's mask size, K points.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from s4m_cache.masks import Masks
from s4m_pipeline.config.groups import PromptType
from s4m_pipeline.data.packed_masks import pack_masks, tight_boxes
from s4m_pipeline.refine.selection import Candidates, MaskFrame
from s4m_pipeline.sam import BatchedSam, ImageEmbeddings, Prompts, full_size_masks


class Refined(NamedTuple):
    """SAM's masks for the N pseudo-labels of one image, in their order."""

    masks: Masks
    predicted_iou: Tensor
    """(N,) float32, on SAM's device."""


def refine_masks(
    sam: BatchedSam,
    embeddings: ImageEmbeddings,
    kept: Sequence[Candidates],
    image_ids: Sequence[int],
    *,
    kind: PromptType = "points",
    num_points: int = 3,
    seed: int = 0,
    generation: int = 0,
) -> list[Refined]:
    """The mask of highest predicted IoU for a prompt drawn from each of the teacher's masks.

    Args:
        embeddings: of B images.
        kept: the B images' pseudo-labels; an image may have none.
        image_ids: with `seed` and `generation`, all that an image's random points depend on.
    """
    sizes = embeddings.image_hw_px
    height, width = embeddings.tokens_BChw.shape[-2:]
    prompts = [
        make_prompts(
            kind,
            labels.mask_logits,
            labels.frame,
            uniforms=draw_uniforms(seed, generation, image_id, len(labels), num_points),
            sam_logits_size=(4 * height, 4 * width),
        )
        for labels, image_id in zip(kept, image_ids, strict=True)
    ]
    counts = torch.tensor([len(labels) for labels in kept])
    image_index = torch.arange(len(kept)).repeat_interleave(counts)
    decoded = sam.decode(embeddings, image_index, Prompts.cat(prompts))
    logits, iou = decoded.logits[:, 0], decoded.iou[:, 0]
    masks: list[list[Masks]] = [[] for _ in kept]
    for rows, full in full_size_masks(logits, image_index.to(logits.device), sizes):
        masks[int(image_index[int(rows[0])])].append(pack_masks(full))
    return [
        Refined(Masks.join(pieces), of_image)
        for pieces, of_image in zip(masks, iou.split(counts.tolist()), strict=True)
    ]


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
        kind: `points` draws K points from the normalized thresholded probability (the paper);
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
        boxes_xyxy = tight_boxes(inside)[:, [1, 0, 3, 2]] * cell_wh_px.repeat(2)
        return Prompts(boxes_xyxy_px=boxes_xyxy.minimum(image_wh_px.repeat(2)))
    if kind == "points":
        cells = draw_cells(mask_logits.float().sigmoid() * inside, uniforms)
    elif kind == "points_softmax":
        cells = draw_cells(mask_logits.float().flatten(1).softmax(dim=1).view_as(mask_logits), uniforms)
    elif kind == "point_confident":
        cells = mask_logits.flatten(1).argmax(dim=1, keepdim=True)
    else:
        cells = _most_central_cells(inside)[:, None]
    cell_xy = torch.stack([cells % width, cells // width], dim=-1)
    # Integers are pixel centers in SAM's frame: the middle of the first cell of s pixels is s / 2 - 1 / 2.
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


def _most_central_cells(masks: Tensor) -> Tensor:
    """(N,) int64: the mask cell nearest to the mask's centroid, for non-empty masks (N, h, w) bool."""
    height, width = masks.shape[1:]
    ys, xs = torch.meshgrid(
        torch.arange(height, device=masks.device), torch.arange(width, device=masks.device), indexing="ij"
    )
    area = masks.sum(dim=(1, 2)).clamp(min=1)[:, None, None]
    center_y = (masks * ys).sum(dim=(1, 2), keepdim=True) / area
    center_x = (masks * xs).sum(dim=(1, 2), keepdim=True) / area
    distance = (ys - center_y).square() + (xs - center_x).square()
    return distance.masked_fill(~masks, torch.inf).flatten(1).argmin(dim=1)
