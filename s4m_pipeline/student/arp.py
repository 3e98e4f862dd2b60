"""ARP: instances of one unlabelled image are pasted into another, a step on the batch (paper, section 3.3).

What is drawn and placed is decided on the CPU, in integers, from torch's global CPU generator: the same seed
gives the same masks on every device. The host reads back from the device twice a step: the extents of all
instances before pasting, and which ones are left after it.

Axes: B images, N instances of one image, H x W the padded size, h x w a part of it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from s4m_pipeline.options.student import ArpOptions


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images of one step with their instances, all on one device."""

    pixels_B3HW: Tensor
    """(B, 3, H, W) float32 RGB in [0, 1], padded at the bottom and right."""
    sizes_hw: list[tuple[int, int]]
    """Valid area of each image, at the top left, in pixels."""
    masks: list[Tensor]
    """(N, H, W) bool for each image."""
    labels: list[Tensor]
    """(N,) int64 for each image."""


class Box(NamedTuple):
    """Rows top to bottom and columns left to right, ends exclusive, in pixels."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


class Group(NamedTuple):
    """The instances of an image that are pasted elsewhere."""

    kept: list[int]
    """Their indices in the image."""
    box: Box
    """Around all of them."""


class Placement(NamedTuple):
    """Where a group of the source goes in the target."""

    source: int
    target: int
    group: Group
    at: Box
    """Where the group's box comes to lie, in pixels of the target; may reach beyond its valid area."""
    visible: Box
    """The part of it in the target's valid area."""


@torch.no_grad()
def paste_instances(batch: LabelledImages, options: ArpOptions) -> LabelledImages:
    """Exchange the instances of random pairs of images, both ways and both from the originals.

    1. A share `fraction` of the images, rounded down to an even number, is paired at random.
    2. The instances of at least `min_area_px` move as one group: the box around them is cut out, resized by
       one factor from `scale_range` (pixels bilinear, masks nearest, both on half-pixel centres) and placed.
       `same` keeps the box's centre (to half a pixel); `random` draws a place that lies within the target's
       valid area as far as the box fits, and covers the area where the box is larger.
    3. The pasted pixels replace the target's in the target's valid area, and their masks are taken from the
       masks that were there: x' = M_source * x_source + (1 - M_source) * x_target.
    4. The pasted masks and labels follow those of the target; instances without a pixel are dropped.

    The input is not modified; images into which nothing is pasted share their masks with it.
    """
    placements = draw_placements(batch, options)
    if not placements:
        return batch
    pixels = batch.pixels_B3HW.clone()
    masks, labels = list(batch.masks), list(batch.labels)
    for placement in placements:
        content, pasted = _cut_out(batch, placement)
        target = placement.target
        into = pixels[target][:, *placement.visible.slices]
        union = _any(pasted, dim=0)
        torch.where(union, content, into, out=into)
        masks[target] = _occlude(batch.masks[target], union, pasted, placement.visible)
        chosen = _index(placement.group.kept, batch.labels[placement.source])
        labels[target] = torch.cat([batch.labels[target], chosen])
    _drop_emptied(masks, labels, [placement.target for placement in placements])
    return LabelledImages(pixels_B3HW=pixels, sizes_hw=batch.sizes_hw, masks=masks, labels=labels)


def draw_placements(batch: LabelledImages, options: ArpOptions) -> list[Placement]:
    """Draw pairs, size factors and places: for each target at most one group.

    Draws a permutation of B, then (directions, 3) uniform numbers for factor, row and column, whatever the
    options and the images: what follows in the generator does not depend on them but for `fraction`.
    """
    num_images = len(batch.sizes_hw)
    num_pairs = options.num_pairs(num_images)
    order = torch.randperm(num_images, device="cpu")[: 2 * num_pairs].tolist()
    uniforms = torch.rand(2 * num_pairs, 3, device="cpu").tolist()
    partners = order[num_pairs:] + order[:num_pairs]
    groups = dict(zip(order, _find_groups(batch, order, options.min_area_px), strict=True))
    placements = []
    for source, target, (u_scale, *u_place) in zip(order, partners, uniforms, strict=True):
        group, valid_hw = groups[source], batch.sizes_hw[target]
        if group is None:
            continue
        low, high = options.scale_range
        at = _place(group.box, low + (high - low) * u_scale, u_place, valid_hw, options)
        visible = Box(
            max(at.top, 0), max(at.left, 0), min(at.bottom, valid_hw[0]), min(at.right, valid_hw[1])
        )
        if min(visible.size_hw) > 0:
            placements.append(Placement(source, target, group, at, visible))
    return placements


def _place(
    box: Box, scale: float, uniforms: list[float], valid_hw: tuple[int, int], options: ArpOptions
) -> Box:
    starts, ends = [], []
    for start, length, valid, uniform in zip(box[:2], box.size_hw, valid_hw, uniforms, strict=True):
        scaled = max(1, round(length * scale))
        if options.placement == "same":
            first = start + (length - scaled) // 2
        else:
            room = valid - scaled
            first = min(room, 0) + int(uniform * (abs(room) + 1))
        starts.append(first)
        ends.append(first + scaled)
    return Box(*starts, *ends)


def _find_groups(batch: LabelledImages, images: list[int], min_area_px: int) -> list[Group | None]:
    """What each of the images has to paste, None if nothing; waits for the device once."""
    if not images:
        return []
    extents = [_extents(batch.masks[i], batch.sizes_hw[i]) for i in images]
    tables = torch.cat(extents).cpu().split([len(extent) for extent in extents])
    return [_group(table, min_area_px) for table in tables]


def _extents(masks_NHW: Tensor, valid_hw: tuple[int, int]) -> Tensor:
    """(N, 5) int64: area, first row and column, last row and column + 1, in the valid area."""
    inside = masks_NHW[:, : valid_hw[0], : valid_hw[1]]
    row_areas = inside.view(torch.uint8).sum(dim=2, dtype=torch.int32)
    (top, bottom), (left, right) = _span(row_areas > 0), _span(_any(inside, dim=1))
    return torch.stack([row_areas.sum(dim=1), top, left, bottom, right], dim=1)


def _span(occupied_NL: Tensor) -> tuple[Tensor, Tensor]:
    """First place and last place + 1, each (N,) int64, where there is one."""
    occupied, length = occupied_NL.view(torch.uint8), occupied_NL.shape[1]
    return occupied.argmax(dim=1), length - occupied.flip(1).argmax(dim=1)


def _group(extents_N5: Tensor, min_area_px: int) -> Group | None:
    kept = (extents_N5[:, 0] >= max(min_area_px, 1)).nonzero()[:, 0]
    if not len(kept):
        return None
    boxes = extents_N5[kept, 1:]
    return Group(kept.tolist(), Box(*boxes[:, :2].amin(dim=0).tolist(), *boxes[:, 2:].amax(dim=0).tolist()))


def _cut_out(batch: LabelledImages, placement: Placement) -> tuple[Tensor, Tensor]:
    """Pixels (3, h, w) and masks (n, h, w) of the group at its new size, the visible part of them."""
    source, (kept, box), at, shown = placement.source, placement.group, placement.at, placement.visible
    part = Box(shown.top - at.top, shown.left - at.left, shown.bottom - at.top, shown.right - at.left).slices
    content = batch.pixels_B3HW[source][:, *box.slices]
    masks = _index(kept, batch.masks[source][:, *box.slices])
    if at.size_hw == box.size_hw:
        return content[:, *part], masks[:, *part]
    content = F.interpolate(content[None], at.size_hw, mode="bilinear", align_corners=False)[0]
    rows, columns = (
        _nearest(length, scaled, masks.device)[shown_part]
        for length, scaled, shown_part in zip(box.size_hw, at.size_hw, part, strict=True)
    )
    masks = masks.index_select(1, rows)
    # Along rows, `gather` is several times faster than `index_select` on a CPU.
    return content[:, *part], masks.gather(2, columns.expand(*masks.shape[:2], -1))


def _nearest(length: int, scaled: int, device: torch.device) -> Tensor:
    """(scaled,) int64: the old cell in which the centre of each new cell lies."""
    return (2 * torch.arange(scaled, device=device) + 1) * length // (2 * scaled)


def _occlude(own: Tensor, union: Tensor, pasted: Tensor, visible: Box) -> Tensor:
    """(N + n, H, W) bool: a copy of the target's masks without the union, then the pasted ones."""
    merged = own.new_empty(len(own) + len(pasted), *own.shape[1:])
    merged[: len(own)] = own
    merged[: len(own), *visible.slices] &= ~union
    merged[len(own) :] = False
    merged[len(own) :, *visible.slices] = pasted
    return merged


def _drop_emptied(masks: list[Tensor], labels: list[Tensor], images: list[int]) -> None:
    """Remove, in the lists, the masks of these images without a pixel; waits for the device once."""
    left = torch.cat([_any(_any(masks[image], dim=2), dim=1) for image in images]).cpu()
    for image, kept in zip(images, left.split([len(masks[image]) for image in images]), strict=True):
        if not kept.all():
            indices = kept.nonzero()[:, 0].tolist()
            masks[image], labels[image] = _index(indices, masks[image]), _index(indices, labels[image])


def _any(masks: Tensor, dim: int) -> Tensor:
    """As `masks.any(dim)`, which is 40 times slower on a CPU."""
    return masks.view(torch.uint8).amax(dim=dim).view(torch.bool)


def _index(indices: list[int], values: Tensor) -> Tensor:
    """The values at the indices, which rise, along the first axis."""
    if len(indices) == len(values):
        return values
    return values.index_select(0, torch.tensor(indices, dtype=torch.int64, device=values.device))
