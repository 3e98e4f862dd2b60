"""The student: Mask2Former on labeled and pseudo-labeled images in one forward pass (paper, section 3.3)."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.structures import SampleList
from torch import Tensor

from s4m_pipeline.models.mask2former import InstanceMask2Former
from s4m_pipeline.models.matching import MEAN_MATCHED, Branch

LABELED, UNLABELED = "labeled", "unlabeled"
"""Values of a sample's `branch`."""


class StudentMask2Former(InstanceMask2Former):
    """`InstanceMask2Former` whose loss is L_sup + lambda_u L_unsup; prediction is unchanged.

    Both branches share one forward pass, and their losses are computed separately, as in two passes.
    Unlabeled images without any pseudo-label are left out of the loss: they do not count as empty. Nor do
    regions that are ignored in the others.

    Args:
        unlabeled_weight: lambda_u.
        unlabeled_background: class weight of "no object" in the loss on pseudo-labels.
        outline_weight, outline_px: of pixels on the outlines of pseudo-labels; see `Branch`.
        network: arguments of `InstanceMask2Former`.
    """

    def __init__(
        self,
        *,
        unlabeled_weight: float,
        unlabeled_background: float,
        outline_weight: float = 1.0,
        outline_px: int = 4,
        **network: Any,
    ) -> None:
        super().__init__(**network)
        self.unlabeled_weight = unlabeled_weight
        self.unlabeled_background = unlabeled_background
        self.outline_weight = outline_weight
        self.outline_px = outline_px

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of both branches, those of the unlabeled one with the prefix `unsup_`.

        Args:
            batch_inputs: (B, 3, H, W) float, normalized and padded.
            batch_data_samples: B samples with `branch` and `gt_instances`: `labels` (N,) int64 and `masks`
                (N, H, W) bool tensors, perhaps `weights` (N, 2); some with `ignored`, see `Branch`.

        Returns:
            The weighted losses, and `pseudo_instances`, how many an unlabeled image has on average.
        """
        class_logits, mask_logits = self.panoptic_head(self.extract_feat(batch_inputs), batch_data_samples)
        names = [sample.metainfo["branch"] for sample in batch_data_samples]
        labeled = [i for i, name in enumerate(names) if name == LABELED]
        unlabeled = [i for i, name in enumerate(names) if name == UNLABELED]
        counts = [len(batch_data_samples[i].gt_instances) for i in unlabeled]
        teaching = [i for i, count in zip(unlabeled, counts, strict=True) if count]

        # The head averages over ranks, so every rank must give both: without pseudo-labels with weight 0.
        weight = self.unlabeled_weight if teaching else 0.0
        classes = self.panoptic_head.class_weight  # one per class, "no object" last
        logits = class_logits, mask_logits
        noisy = _branch(
            *logits,
            batch_data_samples,
            teaching or unlabeled[:1],
            class_weight=[*classes[:-1], self.unlabeled_background],
            outline_weight=self.outline_weight,
            outline_px=self.outline_px,
        )
        annotated = _branch(*logits, batch_data_samples, labeled, class_weight=classes)
        losses, unsupervised = self.panoptic_head.losses_of([annotated, noisy])
        losses |= {f"unsup_{name}": weight * value for name, value in unsupervised.items()}
        losses["pseudo_instances"] = batch_inputs.new_full((), sum(counts) / max(len(counts), 1))
        return losses


def _branch(
    class_logits: Sequence[Tensor],
    mask_logits: Sequence[Tensor],
    samples: SampleList,
    chosen: Sequence[int],
    **weights: Any,
) -> Branch:
    """The `chosen` images of a batch; logits are of the whole batch, from every layer."""
    index = torch.tensor(chosen, device=class_logits[0].device)  # one copy to the device for all layers
    return Branch(
        [layer[index] for layer in class_logits],
        [layer[index] for layer in mask_logits],
        [samples[i].gt_instances for i in chosen],
        ignored=[samples[i].get("ignored") for i in chosen],
        mean_matched=samples[chosen[0]].metainfo.get(MEAN_MATCHED),
        **weights,
    )
