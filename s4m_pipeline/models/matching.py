"""What a batch's queries are matched with, and the pairs of least cost.

Axes: B images, Q queries, C classes with "no object" last, N objects of all images, M of the image that has
most, P sampled points, R images that ignore a region, T pairs of query and object, H x W pixels of the masks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.ops import point_sample
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MEAN_MATCHED = "mean_matched"
"""Metainfo of a sample of a batch that is computed in parts: `Branch.mean_matched`."""


class Objects(NamedTuple):
    """The objects of a batch, image by image."""

    counts: list[int]
    """Objects of each image."""
    labels_N: Tensor
    masks_N1HW: Tensor
    """float32."""
    image_N: Tensor
    """int64 index of the object's image."""
    place_N: Tensor
    """int64 index among the objects of its image."""
    weights_N2: Tensor
    """float32 weights in the class loss and in the mask losses."""

    @classmethod
    def of(cls, instances: Sequence[InstanceData]) -> "Objects":
        """From the `labels` (N,), `masks` (N, H, W) and `weights` (N, 2; else 1) of each image."""
        counts = [len(image.labels) for image in instances]
        labels = torch.cat([image.labels for image in instances])
        masks = torch.cat([image.masks for image in instances])
        image = np.repeat(np.arange(len(counts)), counts)
        place = np.concatenate([np.arange(count) for count in counts])
        indices = torch.from_numpy(np.stack([image, place])).to(labels.device)
        ones = torch.ones((len(labels), 2), device=labels.device)
        weights = [found.get("weights", ones[: len(found.labels)]) for found in instances]
        return cls(counts, labels, masks[:, None].float(), indices[0], indices[1], torch.cat(weights))


class Branch(NamedTuple):
    """B images whose losses are averaged together."""

    class_logits: Sequence[Tensor]
    """(B, Q, C) of each decoder layer."""
    mask_logits: Sequence[Tensor]
    """(B, Q, h, w) of each decoder layer."""
    instances: Sequence[InstanceData]
    """`labels` (N,) and `masks` (N, H, W) tensors of each image, perhaps `weights` (N, 2)."""
    class_weight: Sequence[float]
    """C weights of classes in `loss_cls`."""
    ignored: Sequence[Tensor | None] = ()
    """(H, W) bool of each image, or None for those that ignore nothing; empty: all of them."""
    mean_matched: float | None = None
    """Objects matched in one part of the batch, averaged over all; None: the batch is not divided."""
    outline_weight: float = 1.0
    """Weight of pixels on an object's outline in the cross-entropy of masks, beside others."""
    outline_px: int = 4
    """How far from the outline it has an effect, in pixels."""

    def outline_weights(self, objects: Objects, point_NP2: Tensor) -> Tensor:
        """(N, P) weights of points, lower where the mask would change if its outline were moved.

        With the share b of the mask in a square window, 4 b (1 - b) is 1 on a straight outline, and 0 where
        the window is all inside or all outside.
        """
        if self.outline_weight == 1:
            return torch.ones_like(point_NP2[..., 0])
        reach = self.outline_px
        share_N1HW = F.avg_pool2d(objects.masks_N1HW, 2 * reach + 1, 1, reach, count_include_pad=False)
        share_NP = point_sample(share_N1HW, point_NP2)[:, 0]
        return 1 - (1 - self.outline_weight) * 4 * share_NP * (1 - share_NP)


class Regions(NamedTuple):
    """Where the images of a batch are ignored."""

    image_R: Tensor
    """int64 indices of the R images that ignore anything."""
    masks_R1HW: Tensor
    """float32."""

    @classmethod
    def of(cls, ignored: Sequence[Tensor | None]) -> "Regions | None":
        """From the regions (H, W) of each image; None if none ignores anything."""
        found = {image: region for image, region in enumerate(ignored) if region is not None}
        if not found:
            return None
        masks = torch.stack(list(found.values()))
        return cls(torch.tensor(list(found), device=masks.device), masks[:, None].float())

    def inside(self, logit_BQP: Tensor, point_BP2: Tensor) -> Tensor:
        """(R, Q) bool whether more than half of a predicted mask is ignored, from logits at sampled points.

        The points are those that costs are computed at, so that the only product is (R, Q, P) @ (R, P, 1).
        A mask without any of them is not ignored.
        """
        region_RP1 = point_sample(self.masks_R1HW, point_BP2[self.image_R]).mT
        mask_RQP = (logit_BQP[self.image_R] > 0).float()
        return (mask_RQP @ region_RP1)[..., 0] > 0.5 * mask_RQP.sum(-1)


def assign(costs: Sequence[Tensor], counts: Sequence[Sequence[int]]) -> Sequence[Tensor]:
    """Pairs (3, T) int64 of image, query and object (of all images), by image and query, for each (B, Q, M).

    All costs are fetched together: nothing else in a loss waits for the device.

    Args:
        costs: of every layer of every branch.
        counts: for each of them the number of objects of every image.
    """
    fetched = torch.cat([cost_BQM.flatten() for cost_BQM in costs]).cpu()
    parts = fetched.split([cost_BQM.numel() for cost_BQM in costs])
    pairs = [
        least_cost_pairs(part.view(cost_BQM.shape), of_images)
        for part, cost_BQM, of_images in zip(parts, costs, counts, strict=True)
    ]
    return torch.cat(pairs, dim=1).to(costs[0].device).split([each.shape[1] for each in pairs], dim=1)


def least_cost_pairs(cost_BQM: Tensor, counts: Sequence[int]) -> Tensor:
    """As `assign`, for one layer whose costs are on the CPU."""
    costs = cost_BQM.numpy()
    pairs, first = [], 0
    for image, count in enumerate(counts):
        query, place = linear_sum_assignment(costs[image, :, :count])
        pairs.append(np.stack([np.full_like(query, image), query, first + place]))
        first += count
    return torch.from_numpy(np.concatenate(pairs, axis=1))
