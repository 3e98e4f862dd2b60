"""Mask2Former's head with the objects of a whole batch matched and compared at once.

Axes: B images, Q queries, C classes with "no object" last, N objects of all images, M of the image that has
most, P sampled points, T pairs of query and object, H x W pixels of the masks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.ops import point_sample
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.task_modules import ClassificationCost, CrossEntropyLossCost, DiceCost
from mmdet.models.utils import get_uncertain_point_coords_with_randomness
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_FLAT = 1e4
"""Logits are cut here for the matching: beyond it every cost is flat, and NaN and Inf are in nobody's way."""


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

    @classmethod
    def of(cls, instances: Sequence[InstanceData]) -> "Objects":
        """From the `labels` (N,) and `masks` (N, H, W) of each image."""
        counts = [len(image.labels) for image in instances]
        labels = torch.cat([image.labels for image in instances])
        masks = torch.cat([image.masks for image in instances])
        image = np.repeat(np.arange(len(counts)), counts)
        place = np.concatenate([np.arange(count) for count in counts])
        indices = torch.from_numpy(np.stack([image, place])).to(labels.device)
        return cls(counts, labels, masks[:, None].float(), *indices)


@MODELS.register_module()
class BatchedMask2FormerHead(Mask2FormerHead):
    """mmdet's head, whose loss costs less: the same numbers from the same random draws.

    mmdet compares, samples and matches image by image and waits for the device several times for each, in
    every decoder layer. Here a layer's costs are one matrix product for all images, and the device is waited
    for once. A prediction that is NaN or Inf is matched as if it were flat; the loss is then not finite, and
    the step is skipped, where SciPy would raise in the middle of it.

    Args: those of mmdet's head; `train_cfg.assigner` must have the three costs of Mask2Former.

    Raises:
        ValueError: if it has others.
    """

    def __init__(self, **head: object) -> None:
        super().__init__(**head)
        costs = {type(cost): cost for cost in self.assigner.match_costs}
        if set(costs) != {ClassificationCost, CrossEntropyLossCost, DiceCost}:
            raise ValueError(
                "model.train_cfg.assigner.match_costs must be ClassificationCost, CrossEntropyLossCost and "
                f"DiceCost, not {', '.join(cost.__name__ for cost in costs)}"
            )
        self.class_cost, self.mask_cost = costs[ClassificationCost], costs[CrossEntropyLossCost]
        self.dice_cost = costs[DiceCost]

    def loss(self, x: Sequence[Tensor], batch_data_samples: SampleList) -> dict[str, Tensor]:
        """The losses of every decoder layer.

        Args:
            x: feature maps of the backbone.
            batch_data_samples: B samples with `gt_instances`: `labels` (N,) int64 and `masks`, one of mmdet's
                structures or a tensor (N, H, W).
        """
        class_logits, mask_logits = self(x, batch_data_samples)
        instances = [as_tensors(sample.gt_instances, x[0].device) for sample in batch_data_samples]
        return self.loss_by_feat(
            class_logits, mask_logits, instances, [sample.metainfo for sample in batch_data_samples]
        )

    def loss_by_feat(
        self,
        all_cls_scores: Sequence[Tensor],
        all_mask_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
    ) -> dict[str, Tensor]:
        """The losses of every decoder layer, the last one's without a prefix.

        Args:
            all_cls_scores: class logits (B, Q, C) of each layer.
            all_mask_preds: mask logits (B, Q, h, w) of each layer.
            batch_gt_instances: `labels` (N,) and `masks` (N, H, W) tensors of each image.
            batch_img_metas: not used.

        Returns:
            `loss_cls`, `loss_mask`, `loss_dice`, and the same with the prefixes `d0.`, `d1.`, ...
        """
        objects = Objects.of(batch_gt_instances)
        matched = sum(max(min(count, self.num_queries), 1) for count in objects.counts)  # mmdet's rule
        num_masks = reduce_mean(all_cls_scores[0].new_tensor([matched])).clamp(min=1)
        prefixes = [*(f"d{layer}." for layer in range(len(all_cls_scores) - 1)), ""]
        return {
            f"{prefix}{name}": value
            for prefix, class_BQC, mask_BQhw in zip(prefixes, all_cls_scores, all_mask_preds, strict=True)
            for name, value in self._layer_losses(class_BQC, mask_BQhw, objects, num_masks).items()
        }

    def _layer_losses(
        self, class_BQC: Tensor, mask_BQhw: Tensor, objects: Objects, num_masks: Tensor
    ) -> dict[str, Tensor]:
        image_T, query_T, object_T = self._match(class_BQC, mask_BQhw, objects)
        target_BQ = objects.labels_N.new_full(class_BQC.shape[:2], self.num_classes)
        target_BQ[image_T, query_T] = objects.labels_N[object_T]
        weight_C = class_BQC.new_tensor(self.class_weight)
        losses = {
            "loss_cls": self.loss_cls(
                class_BQC.flatten(0, 1),
                target_BQ.flatten(),
                torch.ones_like(target_BQ).flatten(),
                avg_factor=weight_C[target_BQ].sum(),
            )
        }
        mask_T1hw = mask_BQhw[image_T, query_T][:, None]
        if len(mask_T1hw) == 0:
            nothing = mask_T1hw.sum()
            return {**losses, "loss_mask": nothing, "loss_dice": nothing}
        with torch.no_grad():
            point_TP2 = get_uncertain_point_coords_with_randomness(
                mask_T1hw, None, self.num_points, self.oversample_ratio, self.importance_sample_ratio
            )
            point_NP2 = point_TP2.new_zeros((len(objects.labels_N), *point_TP2.shape[1:]))
            point_NP2[object_T] = point_TP2  # points are put in the order of the masks, which are large
            target_TP = point_sample(objects.masks_N1HW, point_NP2)[object_T, 0]
        logit_TP = point_sample(mask_T1hw, point_TP2)[:, 0]
        losses["loss_dice"] = self.loss_dice(logit_TP, target_TP, avg_factor=num_masks)
        losses["loss_mask"] = self.loss_mask(
            logit_TP.flatten(), target_TP.flatten(), avg_factor=num_masks * self.num_points
        )
        return losses

    @torch.no_grad()
    def _match(self, class_BQC: Tensor, mask_BQhw: Tensor, objects: Objects) -> tuple[Tensor, Tensor, Tensor]:
        """Indices (T,) of image, query and object (of all images) of each pair, by image and query."""
        point_BP2 = random_points(len(mask_BQhw), self.num_points, mask_BQhw.device)
        with torch.autocast(mask_BQhw.device.type, enabled=False):
            cost_BQM = self._costs(
                class_BQC.float().nan_to_num(0).clamp(-_FLAT, _FLAT),
                point_sample(mask_BQhw.float(), point_BP2).nan_to_num(0).clamp(-_FLAT, _FLAT),
                objects,
                point_sample(objects.masks_N1HW, point_BP2[objects.image_N])[:, 0],
            )
        costs = cost_BQM.cpu().numpy()  # the one time that a layer waits for the device
        pairs, first = [], 0
        for image, count in enumerate(objects.counts):
            query, place = linear_sum_assignment(costs[image, :, :count])
            pairs.append(np.stack([np.full_like(query, image), query, first + place]))
            first += count
        image_T, query_T, object_T = torch.from_numpy(np.concatenate(pairs, axis=1)).to(mask_BQhw.device)
        return image_T, query_T, object_T

    def _costs(self, class_BQC: Tensor, logit_BQP: Tensor, objects: Objects, target_NP: Tensor) -> Tensor:
        """mmdet's costs of matching every query with every object of its image, (B, Q, M)."""
        where, shape = (objects.image_N, objects.place_N), (len(class_BQC), max(objects.counts))
        label_BM = objects.labels_N.new_zeros(shape)
        label_BM[where] = objects.labels_N
        target_BMP = target_NP.new_zeros((*shape, target_NP.shape[1]))
        target_BMP[where] = target_NP

        classes = class_BQC.softmax(-1).gather(2, label_BM[:, None].expand(-1, class_BQC.shape[1], -1))
        # The entropy of "object" is that of "no object" less the logit, so one product is enough.
        shared_BQM = logit_BQP @ target_BMP.mT
        entropy = (F.softplus(logit_BQP).sum(-1, keepdim=True) - shared_BQM) / logit_BQP.shape[-1]
        inside_BQP = logit_BQP.sigmoid()
        overlap = 2 * (inside_BQP @ target_BMP.mT)
        both = inside_BQP.sum(-1, keepdim=True) + target_BMP.sum(-1)[:, None]
        dice = 1 - (overlap + self.dice_cost.eps) / (both + self.dice_cost.eps)
        return (
            self.mask_cost.weight * entropy + self.dice_cost.weight * dice - self.class_cost.weight * classes
        )


def random_points(num_images: int, num_points: int, device: torch.device) -> Tensor:
    """Places (B, P, 2) in images of size 1 x 1, x before y."""
    return torch.rand((num_images, num_points, 2), device=device)


def as_tensors(instances: InstanceData, device: torch.device) -> InstanceData:
    """The `labels` (N,) int64 and `masks` (N, H, W) bool of an image on a device, whatever held them."""
    masks = instances.masks
    if not isinstance(masks, Tensor):
        masks = masks.to_tensor(torch.bool, device)
    return InstanceData(labels=torch.as_tensor(instances.labels, device=device), masks=masks)
