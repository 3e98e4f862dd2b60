"""ARP: instances of one unlabeled image of a batch are pasted into another one (paper, section 3.3).

Pairs and places are drawn on the CPU, as integers, from torch's global CPU generator: the same seed gives the
same masks on every device. The host synchronizes with the device twice per batch: for the extents of all
instances before pasting, and for which ones are left after it.

Axes: B images, N instances of one image, H x W the padded size, h x w a part of it. Boxes are in the order of
the cache: y0, x0, y1, x1.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from s4m_pipeline.config.student import ArpOptions
from s4m_pipeline.data.packed_masks import tight_boxes


@dataclass(frozen=True, kw_only=True)
class LabeledImages:
    """Images of a batch with their instances, all on one device."""

    pixels_B3HW: Tensor
    """(B, 3, H, W) float32 RGB in [0, 1], padded at the bottom and right; with depth maps (B, 4, H, W)."""
    sizes_hw: list[tuple[int, int]]
    """Valid area of each image, at the top left, in pixels."""
    masks: list[Tensor]
    """(N, H, W) bool for each image."""
    labels: list[Tensor]
    """(N,) int64 for each image."""
    weights: list[Tensor]
    """(N, 2) float32 for each image, in the class loss and in the mask losses."""
    ignored: list[Tensor | None]
    """(H, W) bool for each image: what is neither an object nor background; None: nothing is ignored."""


class Box(NamedTuple):
    """y0, x0, y1, x1 in pixels, ends exclusive (the order of `s4m_cache.masks.Box`)."""

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
    """The group's box in the target; may reach beyond the target's valid area."""
    visible: Box
    """The part of `at` inside the target's valid area."""


@torch.no_grad()
def paste_instances(batch: LabeledImages, options: ArpOptions) -> LabeledImages:
    """Exchange the instances of random pairs of images, in both directions from the original images.

    1. A share `fraction` of the images, rounded down to an even number, is paired at random.
    2. The instances of at least `min_area_px` move as one group: the box around them is cut out, resized by
       one factor from `scale_range` (pixels bilinear, masks nearest, both on half-pixel centers) and placed.
       `same` keeps the box's center (to half a pixel); `random` draws a place inside the target's valid area
       or, where the box is larger, one that covers it.
    3. In the target's valid area the pasted pixels replace the target's, and are removed from the target's
       masks, and from what is ignored there: x' = M_source * x_source + (1 - M_source) * x_target.
    4. The pasted masks, labels and weights follow those of the target; instances without pixels are dropped.
       What is ignored in the source stays there.

    The input is not modified; images into which nothing is pasted share their masks with it.
    """
    placements = draw_placements(batch, options)
    if not placements:
        return batch
    pixels = batch.pixels_B3HW.clone()
    masks, labels, weights = list(batch.masks), list(batch.labels), list(batch.weights)
    ignored = list(batch.ignored)
    for placement in placements:
        content, pasted = _cut_out(batch, placement)  # (3, h, w) and (n, h, w)
        target = placement.target
        into = pixels[target][:, *placement.visible.slices]
        union = _any(pasted, dim=0)
        torch.where(union, content, into, out=into)  # `into` is a view of `pixels`
        masks[target] = _occlude(batch.masks[target], union, pasted, placement.visible)
        if (region := batch.ignored[target]) is not None:
            ignored[target] = region = region.clone()
            region[placement.visible.slices] &= ~union
        for values, own in ((labels, batch.labels), (weights, batch.weights)):
            values[target] = torch.cat([own[target], _index(placement.group.kept, own[placement.source])])
    _drop_emptied(masks, (labels, weights), [placement.target for placement in placements])
    return LabeledImages(
        pixels_B3HW=pixels,
        sizes_hw=batch.sizes_hw,
        masks=masks,
        labels=labels,
        weights=weights,
        ignored=ignored,
    )


def draw_placements(batch: LabeledImages, options: ArpOptions) -> list[Placement]:
    """Draw pairs, size factors and places: at most one group for each target.

    Always draws a permutation of B, then 3 uniform numbers (factor, row, column) for each direction of each
    pair, so that the generator's later numbers depend on `fraction`, but not on other options or on images.
    """
    num_images = len(batch.sizes_hw)
    num_pairs = options.num_pairs(num_images)
    order = torch.randperm(num_images, device="cpu")[: 2 * num_pairs].tolist()
    uniforms = torch.rand(2 * num_pairs, 3, device="cpu").tolist()
    partners = order[num_pairs:] + order[:num_pairs]  # image k of either half is paired with k of the other
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


def _find_groups(batch: LabeledImages, images: list[int], min_area_px: int) -> list[Group | None]:
    """What each image has to paste, None if nothing; synchronizes with the device once for all."""
    if not images:
        return []
    extents = [_extents(batch.masks[i], batch.sizes_hw[i]) for i in images]
    tables = torch.cat(extents).cpu().split([len(extent) for extent in extents])
    return [_group(table, min_area_px) for table in tables]


def _extents(masks_NHW: Tensor, valid_hw: tuple[int, int]) -> Tensor:
    """(N, 5) int64: area and y0, x0, y1, x1 of the pixels in the valid area."""
    inside = masks_NHW[:, : valid_hw[0], : valid_hw[1]]
    areas = inside.view(torch.uint8).sum(dim=(1, 2), dtype=torch.int64)
    return torch.cat([areas[:, None], tight_boxes(inside)], dim=1)


def _group(extents_N5: Tensor, min_area_px: int) -> Group | None:
    kept = (extents_N5[:, 0] >= max(min_area_px, 1)).nonzero()[:, 0]
    if not len(kept):
        return None
    boxes = extents_N5[kept, 1:]
    return Group(kept.tolist(), Box(*boxes[:, :2].amin(dim=0).tolist(), *boxes[:, 2:].amax(dim=0).tolist()))


def _cut_out(batch: LabeledImages, placement: Placement) -> tuple[Tensor, Tensor]:
    """Pixels (3, h, w) and masks (n, h, w) of the group's visible part, in its new size."""
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
    """(scaled,) int64: the old cell that holds the center (i + 0.5) * length / scaled of each new cell i."""
    return (2 * torch.arange(scaled, device=device) + 1) * length // (2 * scaled)


def _occlude(own: Tensor, union: Tensor, pasted: Tensor, visible: Box) -> Tensor:
    """(N + n, H, W) bool: a copy of the target's masks without the union, then the pasted ones.

    One buffer is filled in place: `cat` of two would copy all masks once more.
    """
    merged = own.new_empty(len(own) + len(pasted), *own.shape[1:])
    merged[: len(own)] = own
    merged[: len(own), *visible.slices] &= ~union
    merged[len(own) :] = False
    merged[len(own) :, *visible.slices] = pasted
    return merged


def _drop_emptied(masks: list[Tensor], others: Iterable[list[Tensor]], images: list[int]) -> None:
    """Remove masks without pixels from these images, in all lists; synchronizes with the device once."""
    left = torch.cat([_any(_any(masks[image], dim=2), dim=1) for image in images]).cpu()
    for image, kept in zip(images, left.split([len(masks[image]) for image in images]), strict=True):
        if not kept.all():
            indices = kept.nonzero()[:, 0].tolist()
            for values in (masks, *others):
                values[image] = _index(indices, values[image])


def _any(masks: Tensor, dim: int) -> Tensor:
    """As `masks.any(dim)`, which is 40 times slower on a CPU."""
    return masks.view(torch.uint8).amax(dim=dim).view(torch.bool)


def _index(indices: list[int], values: Tensor) -> Tensor:
    """The values at ascending indices of the first axis; the tensor itself if these are all."""
    if len(indices) == len(values):
        return values
    return values.index_select(0, torch.tensor(indices, dtype=torch.int64, device=values.device))
