"""mmdet's Mask2Former for instances only, with a cheaper way to its predictions."""

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models import Mask2Former
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.mask import mask2bbox
from mmengine.structures import InstanceData
from torch import Tensor


@MODELS.register_module()
class InstanceMask2Former(Mask2Former):
    """Mask2Former whose prediction enlarges only the masks of the queries it reports.

    The result equals mmdet's, which enlarges the masks of all queries twice. Unlike there,
    `test_cfg.max_per_image` may exceed queries times classes. The backbone keeps channels last, as fast
    convolutions want them on CPUs and on tensor cores.

    Args:
        network: arguments of mmdet's `Mask2Former`.
    """

    def __init__(self, **network: Any) -> None:
        super().__init__(**network)
        self.backbone.to(memory_format=torch.channels_last)

    def extract_feat(self, batch_inputs: Tensor) -> list[Tensor]:
        """Feature maps of the backbone, in the memory format that the head's group norms want."""
        return [level.contiguous() for level in super().extract_feat(batch_inputs)]

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        """Instances of each image.

        Args:
            batch_inputs: (B, 3, H, W) float, normalised and padded.
            batch_data_samples: B samples with `img_shape`, `ori_shape`, `batch_input_shape`.
            rescale: masks in the size of the original image instead of the network's input.

        Returns:
            The samples with `pred_instances`: `bboxes` (N, 4) float xyxy in pixels, `labels` (N,) int64,
            `scores` (N,) float in [0, 1] (class probability times mean mask probability inside the mask),
            `masks` (N, h, w) bool; N is at most `test_cfg.max_per_image`, in no particular order.
        """
        class_logits, mask_logits = self.panoptic_head(self.extract_feat(batch_inputs), batch_data_samples)
        for sample, class_QC, mask_QHW in zip(
            batch_data_samples, class_logits[-1], mask_logits[-1], strict=True
        ):
            sample.pred_instances = self._instances(
                class_QC.float(), mask_QHW.float(), sample.metainfo, rescale
            )
        return batch_data_samples

    def mask_queries(
        self, batch_inputs: Tensor, batch_data_samples: SampleList
    ) -> list[tuple[Tensor, Tensor]]:
        """What the last decoder layer says of every query, masks neither enlarged nor thresholded.

        Args:
            batch_inputs: (B, 3, H, W) float, normalised and padded.
            batch_data_samples: B samples with `img_shape`, `batch_input_shape`.

        Returns:
            For each image class logits (Q, classes + 1), the last column "no object", and mask logits
            (Q, h, w) at stride 4, both float32; cells that lie in the padding altogether are cut off.
        """
        class_logits, mask_logits = self.panoptic_head(self.extract_feat(batch_inputs), batch_data_samples)
        stride_px = batch_inputs.shape[-1] // mask_logits[-1].shape[-1]
        found = []
        for sample, class_QC, mask_QHW in zip(
            batch_data_samples, class_logits[-1], mask_logits[-1], strict=True
        ):
            height, width = (-(-side // stride_px) for side in sample.img_shape[:2])
            found.append((class_QC.float(), mask_QHW[:, :height, :width].float()))
        return found

    def _instances(self, class_QC: Tensor, mask_QHW: Tensor, meta: dict, rescale: bool) -> InstanceData:
        probability_QC = class_QC.softmax(-1)[:, : self.num_things_classes]
        count = min(self.test_cfg["max_per_image"], probability_QC.numel())
        probability_N, best_N = probability_QC.flatten().topk(count, sorted=False)
        # A query may be reported for several classes; its mask is enlarged once.
        query_U, place_N = (best_N // self.num_things_classes).unique(return_inverse=True)

        logits_UHW = _resize(mask_QHW[query_U], meta["batch_input_shape"])
        height, width = meta["img_shape"][:2]
        logits_UHW = logits_UHW[:, :height, :width]
        if rescale:
            logits_UHW = _resize(logits_UHW, meta["ori_shape"][:2])
        mask_UHW = logits_UHW > 0
        inside_U = (logits_UHW.sigmoid() * mask_UHW).flatten(1).sum(1)
        mean_U = inside_U / (mask_UHW.flatten(1).sum(1) + 1e-6)
        return InstanceData(
            bboxes=mask2bbox(mask_UHW)[place_N],
            labels=best_N % self.num_things_classes,
            scores=probability_N * mean_U[place_N],
            masks=mask_UHW[place_N],
        )


def _resize(mask_NHW: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(mask_NHW[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
