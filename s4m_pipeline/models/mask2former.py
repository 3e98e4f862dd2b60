"""mmdet's Mask2Former for instances only, with faster prediction, and its preprocessor."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models import DetDataPreprocessor, Mask2Former
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from mmengine.structures import InstanceData
from torch import Tensor

from s4m_cache.masks import Masks
from s4m_pipeline.data.packed_masks import masks_at_a_time, pack_masks
from s4m_pipeline.data.tiles import Tile, Tiling, Views, merge, size_of
from s4m_pipeline.models.depth import DepthFusion


@MODELS.register_module()
class InstanceMask2Former(Mask2Former):
    """Mask2Former whose prediction upsamples only the masks of the queries it reports, and packs them.

    The result equals mmdet's, which upsamples the masks of all queries twice. Unlike there,
    `test_cfg.max_per_image` may exceed queries times classes. The backbone computes in the channels-last
    memory format, with which convolutions are faster on CPUs and on tensor cores.

    Args:
        depth_width: channels of the features of depth maps, which are the fourth channel of the inputs; None:
            inputs have three channels.
        network: arguments of mmdet's `Mask2Former`; `test_cfg.tiles` may say how large inputs are cut.

    Attributes:
        tiling: how large inputs are cut; None: they are not.
    """

    def __init__(self, *, depth_width: int | None = None, **network: Any) -> None:
        super().__init__(**network)
        if depth_width is not None:
            self.depth_fusion = DepthFusion(network["panoptic_head"]["in_channels"], depth_width)
        self.tiling = Tiling.of(self.test_cfg)
        self.backbone.to(memory_format=torch.channels_last)

    def extract_feat(self, batch_inputs: Tensor) -> list[Tensor]:
        """Feature maps of the backbone, contiguous again: group norms in the head are slow otherwise."""
        levels = [level.contiguous() for level in super().extract_feat(batch_inputs[:, :3])]
        return self.depth_fusion(levels, batch_inputs[:, 3:]) if hasattr(self, "depth_fusion") else levels

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        """Instances of each image, of one that is larger than a tile from all its tiles.

        Args:
            batch_inputs: (B, 3, H, W) float, normalized and padded.
            batch_data_samples: B samples with `img_shape`, `ori_shape`, `batch_input_shape`.
            rescale: masks in the size of the original image instead of the network's input.

        Returns:
            The samples with `pred_instances`: `labels` (N,) int64, `scores` (N,) float in [0, 1] (class
            probability times mean mask probability inside the mask), `masks` N packed masks (`Masks`, on the
            CPU); N is at most `test_cfg.max_per_image` for each tile, in no particular order.
        """
        if self.tiling is None or max(batch_inputs.shape[-2:]) <= self.tiling.size_px:
            return self._predict_whole(batch_inputs, batch_data_samples, rescale)
        for sample, image_3HW in zip(batch_data_samples, batch_inputs, strict=True):
            frame_hw = (sample.ori_shape if rescale else sample.img_shape)[:2]
            tiles = self.tiling.cut(sample.img_shape[:2], frame_hw)
            sample.pred_instances = self._predict_tiles(image_3HW, tiles)
        return batch_data_samples

    def _predict_whole(self, batch_inputs: Tensor, samples: SampleList, rescale: bool) -> SampleList:
        class_logits, mask_logits = self.panoptic_head(self.extract_feat(batch_inputs), samples)
        for sample, class_QC, mask_QHW in zip(samples, class_logits[-1], mask_logits[-1], strict=True):
            sample.pred_instances = self._instances(
                class_QC.float(), mask_QHW.float(), sample.metainfo, rescale
            )
        return samples

    def _predict_tiles(self, image_3HW: Tensor, tiles: list[Tile]) -> InstanceData:
        """Instances of one padded input, one tile after the other."""
        assert self.tiling is not None
        side, found = self.tiling.size_px, []
        for tile in tiles:
            y0, x0, y1, x1 = tile.input_box
            # With the padding that the tile has alone: there is some only where the image is smaller.
            inputs = image_3HW[None, :, y0 : y0 + side, x0 : x0 + side]
            meta = {
                "img_shape": (y1 - y0, x1 - x0),
                "ori_shape": size_of(tile.image_box),
                "batch_input_shape": tuple(inputs.shape[-2:]),
            }
            (sample,) = self._predict_whole(inputs, [DetDataSample(metainfo=meta)], rescale=True)
            found.append(sample.pred_instances)
        views = Views.join(
            [tile.image_box for tile in tiles],
            [of_tile.labels.cpu().numpy() for of_tile in found],
            [of_tile.scores.cpu().numpy() for of_tile in found],
            [of_tile.masks for of_tile in found],
        )
        merged = merge(views)
        return InstanceData(
            labels=torch.from_numpy(views.labels[merged.largest]),
            scores=torch.from_numpy(merged.scores),
            masks=views.masks.united(merged.groups),
        )

    def mask_queries(
        self, batch_inputs: Tensor, batch_data_samples: SampleList
    ) -> list[tuple[Tensor, Tensor]]:
        """Logits of every query from the last decoder layer; masks neither upsampled nor thresholded.

        Args:
            batch_inputs: (B, 3, H, W) float, normalized and padded.
            batch_data_samples: B samples with `img_shape`, `batch_input_shape`.

        Returns:
            For each image class logits (Q, classes + 1), the last column "no object", and mask logits
            (Q, h, w) at stride 4, both float32; cells that lie wholly in the padding are cut off.
        """
        class_logits, mask_logits = self.panoptic_head(self.extract_feat(batch_inputs), batch_data_samples)
        # 4 in all shipped configs; a part of a cell still holds pixels of the image, so sizes are rounded up.
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
        # Scores (Q, C) are flattened to Q * C, so place // C is the query and place % C the class. A query
        # may be reported for several classes; its mask is upsampled once: U different queries, N reports.
        query_U, place_N = (best_N // self.num_things_classes).unique(return_inverse=True)

        sizes = [meta["batch_input_shape"], meta["ori_shape"][:2]]
        at_once = min(masks_at_a_time(size, mask_QHW.device) for size in sizes)
        found = [_upsampled(mask_QHW[some], meta, rescale) for some in query_U.split(at_once)]
        masks, means = zip(*found, strict=True)
        return InstanceData(
            labels=best_N % self.num_things_classes,
            scores=probability_N * torch.cat(means)[place_N],
            masks=Masks.join(masks).select(place_N.cpu().numpy()),
        )


def _upsampled(mask_NHW: Tensor, meta: dict, rescale: bool) -> tuple[Masks, Tensor]:
    """Masks in the size of their image, and the mean probability (N,) inside each."""
    logits_NHW = _resize(mask_NHW, meta["batch_input_shape"])
    height, width = meta["img_shape"][:2]
    logits_NHW = logits_NHW[:, :height, :width]
    if rescale:
        logits_NHW = _resize(logits_NHW, meta["ori_shape"][:2])
    mask_NHW = logits_NHW > 0  # probability above 0.5
    inside_N = (logits_NHW.sigmoid() * mask_NHW).flatten(1).sum(1)
    return pack_masks(mask_NHW), inside_N / (mask_NHW.flatten(1).sum(1) + 1e-6)


def _resize(mask_NHW: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(mask_NHW[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


@MODELS.register_module()
class ChannelsPreprocessor(DetDataPreprocessor):
    """Pads images, then normalizes each channel; mmdet's own takes 1 or 3 channels only.

    Args:
        mean: of each channel, in 0..255.
        std: standard deviation of each channel, likewise.
        padding: the other arguments of mmdet's `DetDataPreprocessor`.
    """

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], **padding: Any) -> None:
        super().__init__(**padding)  # without mean and std it stacks and pads, but does not normalize
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Normalized and padded images (B, C, H, W) float32 as `inputs`, and their `data_samples`."""
        data = self.padded(data, training)
        for image, sample in zip(data["inputs"], data["data_samples"], strict=True):
            height, width = sample.img_shape[:2]
            image[:, :height, :width].sub_(self.mean).div_(self.std)  # the padding keeps its value
        return data

    def padded(self, data: dict[str, Any], training: bool) -> dict[str, Any]:
        """The same before normalization."""
        padded: dict[str, Any] = super().forward(data, training)
        return padded
