"""The student: Mask2Former on labelled and pseudo-labelled images in one pass (paper, 3.3)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mmdet.registry import MODELS
from mmdet.structures import SampleList
from torch import Tensor

from s4m_pipeline.models.mask2former import InstanceMask2Former

LABELED, UNLABELED = "labeled", "unlabeled"
"""Values of a sample's `branch`."""


@MODELS.register_module()
class StudentMask2Former(InstanceMask2Former):
    """`InstanceMask2Former` whose loss is L_sup + lambda_u L_unsup; it predicts as without.

    Both branches share one forward pass, and have losses of their own, as in two passes: no annotation meets
    a pseudo-label. Unlabelled images without any pseudo-label teach nothing, rather than that they are empty.

    Args:
        unlabeled_weight: lambda_u.
        unlabeled_background: class weight of "no object" in the loss on pseudo-labels.
        network: arguments of `InstanceMask2Former`.
    """

    def __init__(self, *, unlabeled_weight: float, unlabeled_background: float, **network: object) -> None:
        super().__init__(**network)
        self.unlabeled_weight = unlabeled_weight
        self.unlabeled_background = unlabeled_background

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of both branches, those of the unlabelled one with the prefix `unsup_`.

        Args:
            batch_inputs: (B, 3, H, W) float, normalised and padded.
            batch_data_samples: B samples with `branch` and `gt_instances`: `labels` (N,) int64 and `masks`
                (N, H, W) bool tensors.

        Returns:
            The weighted losses, and `pseudo_instances`, how many an unlabelled image has on average.
        """
        class_logits, mask_logits = self.panoptic_head(self.extract_feat(batch_inputs), batch_data_samples)
        branches = [sample.metainfo["branch"] for sample in batch_data_samples]
        labeled = [i for i, branch in enumerate(branches) if branch == LABELED]
        unlabeled = [i for i, branch in enumerate(branches) if branch == UNLABELED]
        counts = [len(batch_data_samples[i].gt_instances) for i in unlabeled]
        teaching = [i for i, count in zip(unlabeled, counts, strict=True) if count]

        losses = self._losses(class_logits, mask_logits, batch_data_samples, labeled)
        # The head averages over ranks, so all have to take part: with nothing to learn, at weight 0.
        weight = self.unlabeled_weight if teaching else 0.0
        with self._background_weight(self.unlabeled_background):
            unsupervised = self._losses(
                class_logits, mask_logits, batch_data_samples, teaching or unlabeled[:1]
            )
        losses |= {f"unsup_{name}": weight * value for name, value in unsupervised.items()}
        losses["pseudo_instances"] = batch_inputs.new_tensor(sum(counts) / max(len(counts), 1))
        return losses

    @contextmanager
    def _background_weight(self, weight: float) -> Iterator[None]:
        """Another weight of "no object" for the losses in this context."""
        head = self.panoptic_head
        usual = head.class_weight
        head.class_weight = head.loss_cls.class_weight = [*usual[:-1], weight]
        try:
            yield
        finally:
            head.class_weight = head.loss_cls.class_weight = usual

    def _losses(
        self,
        class_logits: Sequence[Tensor],
        mask_logits: Sequence[Tensor],
        samples: SampleList,
        chosen: Sequence[int],
    ) -> dict[str, Tensor]:
        """The head's losses over some images of the batch."""
        losses: dict[str, Tensor] = self.panoptic_head.loss_by_feat(
            [layer[chosen] for layer in class_logits],
            [layer[chosen] for layer in mask_logits],
            [samples[i].gt_instances for i in chosen],
            [samples[i].metainfo for i in chosen],
        )
        return losses
