"""Mask2Former's head whose loss treats the objects of a whole batch at once.

Axes: B images, Q queries, C classes with "no object" last, N objects of all images, M of the image that has
most, P sampled points, T pairs of query and object, H x W pixels of the masks.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

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
from torch import Tensor

from s4m_pipeline.models.decoder import decode
from s4m_pipeline.models.matching import MEAN_MATCHED, Branch, Objects, Regions, assign

_MAX_LOGIT = 1e4
"""Logits are clamped to this for matching: costs hardly change beyond it, and Inf would make them NaN."""


@MODELS.register_module()
class BatchedMask2FormerHead(Mask2FormerHead):
    """mmdet's head with fused attention and a faster loss: the same values from the same random points.

    mmdet samples points, computes costs and matches image by image, and synchronizes with the device several
    times for each, in every decoder layer. Here a layer's costs are one matrix product for all images, and
    the device is waited for once in an iteration. NaN in a prediction is matched as 0 and Inf as a large
    number; the loss is then not finite and the optimizer step is skipped, whereas SciPy would raise an error.

    Args: those of mmdet's head; `train_cfg.assigner` must have the three costs of Mask2Former.

    Raises:
        ValueError: if it has different ones.
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
        self.loss_cls.class_weight = None  # `class_weight` of the head is used alone

    def forward(
        self, x: Sequence[Tensor], batch_data_samples: SampleList
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits (B, Q, C) and mask logits (B, Q, h, w) before the first and after each decoder layer.

        Args:
            x: feature maps of the backbone, finest first.
            batch_data_samples: not used.
        """
        return decode(self, *self.pixel_decoder(x))

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
        ignored: Sequence[Tensor | None] = (),
    ) -> dict[str, Tensor]:
        """The losses of every decoder layer, as `losses_of` one branch.

        Args:
            all_cls_scores: class logits (B, Q, C) of each layer.
            all_mask_preds: mask logits (B, Q, h, w) of each layer.
            batch_gt_instances: `labels` (N,) and `masks` (N, H, W) tensors of each image.
            batch_img_metas: of each image; the first one's may have MEAN_MATCHED.
            ignored: as `Branch.ignored`.
        """
        branch = Branch(
            all_cls_scores,
            all_mask_preds,
            batch_gt_instances,
            self.class_weight,
            ignored,
            batch_img_metas[0].get(MEAN_MATCHED),
        )
        (losses,) = self.losses_of([branch])
        return losses

    def losses_of(self, branches: Sequence[Branch]) -> list[dict[str, Tensor]]:
        """The losses of every decoder layer, for each branch; the last layer's have no prefix.

        Queries that are matched with no object learn the class "no object", unless they predict a mask that
        lies mostly (by more than half of its sampled points) where the image is ignored: these learn nothing.

        Returns:
            For each branch `loss_cls`, `loss_mask`, `loss_dice`, and the same with the prefixes `d0.`, ...
        """
        targets = [(Objects.of(branch.instances), Regions.of(branch.ignored)) for branch in branches]
        costs, counted, counts = [], [], []
        for branch, (objects, regions) in zip(branches, targets, strict=True):
            for class_BQC, mask_BQhw in zip(branch.class_logits, branch.mask_logits, strict=True):
                cost_BQM, counted_BQ = self._costs_and_counted(class_BQC, mask_BQhw, objects, regions)
                costs.append(cost_BQM)
                counted.append(counted_BQ)
                counts.append(objects.counts)
        matched = zip(assign(costs, counts), counted, strict=True)
        return [
            self._branch_losses(branch, objects, matched)
            for branch, (objects, _) in zip(branches, targets, strict=True)
        ]

    def _branch_losses(
        self, branch: Branch, objects: Objects, matched: Iterator[tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """The losses of every layer; takes pairs and counted queries of each layer from `matched`."""
        own = sum(max(min(count, self.num_queries), 1) for count in objects.counts)  # mmdet's rule
        pairs = own if branch.mean_matched is None else branch.mean_matched
        # float32 whatever the logits' dtype: in half precision, masks times points overflow.
        num_masks = reduce_mean(torch.full((1,), float(pairs), device=branch.class_logits[0].device))
        num_masks = num_masks.clamp(min=1)
        prefixes = [*(f"d{layer}." for layer in range(len(branch.class_logits) - 1)), ""]
        losses = {}
        for prefix, class_BQC, mask_BQhw in zip(
            prefixes, branch.class_logits, branch.mask_logits, strict=True
        ):
            pairs_3T, counted_BQ = next(matched)
            counted_BQ[pairs_3T[0], pairs_3T[1]] = 1
            weight_BQ, target_BQ = self._class_targets(branch, objects, pairs_3T, counted_BQ)
            losses[f"{prefix}loss_cls"] = self.loss_cls(
                class_BQC.flatten(0, 1).float(),
                target_BQ.flatten(),
                weight_BQ.flatten(),
                avg_factor=weight_BQ.sum(),
            )
            mask_losses = self._mask_losses(mask_BQhw, branch, objects, pairs_3T, num_masks)
            losses |= {f"{prefix}{name}": value for name, value in mask_losses.items()}
        return losses

    def _class_targets(
        self, branch: Branch, objects: Objects, pairs_3T: Tensor, counted_BQ: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weight, float32 (B, Q), and class, int64 (B, Q), of each query."""
        image_T, query_T, object_T = pairs_3T
        # Queries without an object have the class "no object", whose index is the number of classes.
        target_BQ = torch.full_like(counted_BQ, self.num_classes)
        target_BQ[image_T, query_T] = objects.labels_N[object_T]
        weight_C = _on_device(tuple(branch.class_weight), target_BQ.device)
        weight_BQ = weight_C[target_BQ] * counted_BQ
        weight_BQ[image_T, query_T] *= objects.weights_N2[object_T, 0]
        return weight_BQ, target_BQ

    def _mask_losses(
        self, mask_BQhw: Tensor, branch: Branch, objects: Objects, pairs_3T: Tensor, num_masks: Tensor
    ) -> dict[str, Tensor]:
        image_T, query_T, object_T = pairs_3T
        mask_T1hw = mask_BQhw[image_T, query_T][:, None].float()
        if len(mask_T1hw) == 0:
            nothing = mask_T1hw.sum()  # 0 with a gradient of 0, as distributed training expects one
            return {"loss_mask": nothing, "loss_dice": nothing}
        with torch.no_grad():
            point_TP2 = get_uncertain_point_coords_with_randomness(
                mask_T1hw, None, self.num_points, self.oversample_ratio, self.importance_sample_ratio
            )
            # (T, P, 2) -> (N, P, 2), and the samples back: points are put in the order of the masks, because
            # masks in the order of the pairs would be copies of H x W float32 each. An object is in at most
            # one pair; those in none are sampled at (0, 0), and dropped.
            point_NP2 = point_TP2.new_zeros((len(objects.labels_N), *point_TP2.shape[1:]))
            point_NP2[object_T] = point_TP2
            target_TP = point_sample(objects.masks_N1HW, point_NP2)[object_T, 0]
            weight_T = objects.weights_N2[object_T, 1]
            weight_TP = weight_T[:, None] * branch.outline_weights(objects, point_NP2)[object_T]
        logit_TP = point_sample(mask_T1hw, point_TP2)[:, 0]
        return {
            "loss_mask": self.loss_mask(
                logit_TP.flatten(),
                target_TP.flatten(),
                weight_TP.flatten(),
                avg_factor=num_masks * self.num_points,
            ),
            "loss_dice": self.loss_dice(logit_TP, target_TP, weight_T, avg_factor=num_masks),
        }

    @torch.no_grad()
    def _costs_and_counted(
        self, class_BQC: Tensor, mask_BQhw: Tensor, objects: Objects, regions: Regions | None
    ) -> tuple[Tensor, Tensor]:
        """Costs of matching in one layer, (B, Q, M), and (B, Q) int64: 0 for ignored masks, else 1."""
        point_BP2 = random_points(len(mask_BQhw), self.num_points, mask_BQhw.device)
        counted_BQ = torch.ones_like(class_BQC[..., 0], dtype=torch.int64)
        with torch.autocast(mask_BQhw.device.type, enabled=False):
            logit_BQP = point_sample(mask_BQhw.float(), point_BP2)
            logit_BQP = logit_BQP.nan_to_num(0).clamp(-_MAX_LOGIT, _MAX_LOGIT)
            if regions is not None:
                counted_BQ[regions.image_R] -= regions.inside(logit_BQP, point_BP2).long()
            cost_BQM = self._costs(
                class_BQC.float().nan_to_num(0).clamp(-_MAX_LOGIT, _MAX_LOGIT),
                logit_BQP,
                objects,
                point_sample(objects.masks_N1HW, point_BP2[objects.image_N])[:, 0],
            )
        return cost_BQM, counted_BQ

    def _costs(self, class_BQC: Tensor, logit_BQP: Tensor, objects: Objects, target_NP: Tensor) -> Tensor:
        """mmdet's costs of matching every query with every object of its image, (B, Q, M)."""
        # (N, ...) -> (B, M, ...): rows of M places, those beyond an image's objects zero. The costs of these
        # mean nothing; `least_cost_pairs` cuts them off.
        where, shape = (objects.image_N, objects.place_N), (len(class_BQC), max(objects.counts))
        label_BM = objects.labels_N.new_zeros(shape)
        label_BM[where] = objects.labels_N
        target_BMP = target_NP.new_zeros((*shape, target_NP.shape[1]))
        target_BMP[where] = target_NP

        classes = class_BQC.softmax(-1).gather(2, label_BM[:, None].expand(-1, class_BQC.shape[1], -1))
        # Binary cross entropy of logit z is softplus(-z) inside the object and softplus(z) outside. As
        # softplus(-z) = softplus(z) - z, their sum over all points is sum(softplus(z)) - sum(z * target):
        # one product (B, Q, P) @ (B, P, M) where mmdet has two.
        shared_BQM = logit_BQP @ target_BMP.mT
        entropy = (F.softplus(logit_BQP).sum(-1, keepdim=True) - shared_BQM) / logit_BQP.shape[-1]
        inside_BQP = logit_BQP.sigmoid()
        overlap = 2 * (inside_BQP @ target_BMP.mT)
        both = inside_BQP.sum(-1, keepdim=True) + target_BMP.sum(-1)[:, None]
        dice = 1 - (overlap + self.dice_cost.eps) / (both + self.dice_cost.eps)
        return (
            self.mask_cost.weight * entropy + self.dice_cost.weight * dice - self.class_cost.weight * classes
        )


@lru_cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers as float32; kept, because each copy to a device waits for it."""
    return torch.tensor(values, device=device)


def random_points(num_images: int, num_points: int, device: torch.device) -> Tensor:
    """Uniform x, y in [0, 1): (B, P, 2), relative to the image's size."""
    return torch.rand((num_images, num_points, 2), device=device)


def as_tensors(instances: InstanceData, device: torch.device) -> InstanceData:
    """The `labels` (N,) int64 and `masks` (N, H, W) bool of an image on a device, from arrays or tensors.

    Also their `weights` (N, 2) float32 in class and mask losses, 1 unless they are given.
    """
    masks = instances.masks
    if not isinstance(masks, Tensor):
        masks = masks.to_tensor(torch.bool, device)
    labels = torch.as_tensor(instances.labels, device=device)
    weights = torch.as_tensor(instances.get("weights", torch.ones(len(labels), 2)), device=device)
    return InstanceData(labels=labels, masks=masks, weights=weights)
