"""Mask2Former that also learns from SAM 2 by structural distillation (SD; paper, section 3.1)."""

import time
from typing import Any, Literal, NamedTuple

import torch
from mmdet.structures import SampleList
from mmengine.device import get_device
from torch import Tensor, nn

from s4m_pipeline.config.groups import SamOptions, SdOptions
from s4m_pipeline.models.head import as_tensors
from s4m_pipeline.models.mask2former import InstanceMask2Former
from s4m_pipeline.models.structural import (
    feature_loss,
    resample_to_grid,
    sample_query_points,
    similarity_rows,
    structural_loss,
)
from s4m_pipeline.models.student import LABELED, StudentMask2Former
from s4m_pipeline.sam import BatchedSam, ImageTokens, LoadedSam
from s4m_pipeline.sam import similarity_rows as sam_similarity_rows


class MetaTeacher:
    """SAM 2 as the teacher's teacher: no `nn.Module`, so that it is neither trained nor saved with the model.

    Copies of the model, such as the EMA model, share it.
    """

    def __init__(self, sam: BatchedSam) -> None:
        self.sam = sam

    def __deepcopy__(self, memo: dict[int, Any]) -> "MetaTeacher":
        return self


class DistilledMask2Former(InstanceMask2Former):
    """`InstanceMask2Former` with the SD loss added to the supervised losses; prediction is unchanged.

    In a batch of two branches only labeled images are used: they have no strong augmentation, and the objects
    in which query points are drawn are annotated.

    Args:
        meta_teacher: SAM 2.
        sd_weight: weight of the SD loss.
        sd_points: query points per image.
        sd_target: SAM's features after the mask decoder's two-way blocks, or the encoder's.
        sd_loss: similarity rows (the paper's choice) or the features themselves.
        network: arguments of `InstanceMask2Former`.
    """

    def __init__(
        self,
        *,
        meta_teacher: MetaTeacher,
        sd_weight: float,
        sd_points: int,
        sd_target: Literal["decoder", "encoder"],
        sd_loss: Literal["structural", "feature"],
        **network: Any,
    ) -> None:
        super().__init__(**network)
        self.meta_teacher = meta_teacher
        self.sd_weight = sd_weight
        self.sd_points = sd_points
        self.sd_target = sd_target
        self.sd_loss = sd_loss
        channels = network["panoptic_head"]["out_channels"]
        sam_channels = meta_teacher.sam.network.hidden_dim
        self.sd_projection: nn.Module = nn.Identity()
        if sd_loss == "feature" and channels != sam_channels:
            self.sd_projection = nn.Conv2d(channels, sam_channels, kernel_size=1)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """The supervised losses, `loss_sd`, and `sam_seconds`, the time that SAM took.

        Args:
            batch_inputs: (B, 3, H, W) float, normalized and padded.
            batch_data_samples: B samples with `gt_instances`.
        """
        chosen = [
            i
            for i, sample in enumerate(batch_data_samples)
            if sample.metainfo.get("branch", LABELED) == LABELED
        ]
        samples = [batch_data_samples[i] for i in chosen]
        sizes: list[tuple[int, int]] = [tuple(sample.img_shape[:2]) for sample in samples]
        padded = (batch_inputs.shape[-2], batch_inputs.shape[-1])
        device = batch_inputs.device
        began = _now(device)
        # SAM has its own precision, and similarities are float32, whatever autocast the training uses. It
        # encodes first, while the memory is not yet taken by what the supervised losses keep for backward.
        with torch.autocast(device.type, enabled=False):
            images = self._clean_images(batch_inputs[chosen], sizes)
            embeddings = self.meta_teacher.sam.encode_tokens(images)
        sam_s = _now(device) - began

        taken: list[Tensor] = []
        # The pixel decoder runs inside the supervised loss, and must not run twice: a hook takes its first
        # output, the mask features (B, C, H/4, W/4) that masks are made of.
        handle = self.panoptic_head.pixel_decoder.register_forward_hook(
            lambda module, inputs, outputs: taken.append(outputs[0])
        )
        try:
            losses: dict[str, Tensor] = super().loss(batch_inputs, batch_data_samples)
        finally:
            handle.remove()
        with torch.autocast(device.type, enabled=False):
            began = _now(device)
            target = self._sam_target(embeddings, images, samples)
            losses["sam_seconds"] = torch.tensor(sam_s + _now(device) - began)
            embedding_BChw = resample_to_grid(taken[0][chosen], sizes, padded, target.grid_hw)
            losses["loss_sd"] = self.sd_weight * self._distance(embedding_BChw, target)
        return losses

    def _sam_target(self, embeddings: ImageTokens, images: list[Tensor], samples: SampleList) -> "_Target":
        grid_hw = (embeddings.tokens_BChw.shape[-2], embeddings.tokens_BChw.shape[-1])
        if self.sd_loss == "feature":
            return _Target(grid_hw, embeddings.tokens_BChw.flatten(2), None)
        points = [
            sample_query_points(_foreground(sample, image), self.sd_points)
            for sample, image in zip(samples, images, strict=True)
        ]
        sam = self.meta_teacher.sam
        rows, index = sam_similarity_rows(sam, embeddings, torch.stack(points), self.sd_target)
        return _Target(grid_hw, rows, index)

    def _distance(self, embedding: Tensor, target: "_Target") -> Tensor:
        if target.index_BP is None:
            return feature_loss(self.sd_projection(embedding).flatten(2), target.values)
        return structural_loss(similarity_rows(embedding.flatten(2), target.index_BP), target.values)

    def _clean_images(self, batch_inputs: Tensor, sizes: list[tuple[int, int]]) -> list[Tensor]:
        """The batch as RGB images (3, H, W) in [0, 1]: normalization undone, padding cut off."""
        preprocessor = self.data_preprocessor
        pixels = (batch_inputs.float() * preprocessor.std + preprocessor.mean) / 255
        return [image[:3, :height, :width] for image, (height, width) in zip(pixels, sizes, strict=True)]


class DistilledStudent(DistilledMask2Former, StudentMask2Former):
    """`StudentMask2Former` with the SD loss: an ablation, which lowers the AP in the paper.

    Args: those of both.
    """


def distillation(sd: SdOptions, options: SamOptions, sam: LoadedSam) -> dict[str, Any]:
    """Arguments that `DistilledMask2Former` adds to those of a network's config."""
    batched = BatchedSam(
        sam.network,
        device=get_device(),
        encoder_batch=options.encoder_batch,
        decoder_chunk=options.decoder_chunk,
        compile=options.compile,
    )
    return {
        "meta_teacher": MetaTeacher(batched),
        "sd_weight": sd.weight,
        "sd_points": sd.points,
        "sd_target": sd.target,
        "sd_loss": sd.loss,
    }


class _Target(NamedTuple):
    """What the teacher's embedding is compared with."""

    grid_hw: tuple[int, int]
    values: Tensor
    """(B, P, L) similarity rows, or (B, C, L) features."""
    index_BP: Tensor | None
    """(B, P) tokens of the query points; None for features."""


def _foreground(sample: Any, image: Tensor) -> Tensor:
    """(H, W) bool union of a sample's object masks, on the image's device; the image is not padded."""
    height, width = image.shape[-2:]
    masks = as_tensors(sample.gt_instances, image.device).masks
    return masks.any(dim=0)[:height, :width]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
