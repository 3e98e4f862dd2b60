"""Pseudo-labels of a batch of photos: the teacher finds objects, SAM 2 redraws them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from mmdet.structures import DetDataSample
from numpy.typing import NDArray
from torch import Tensor

from cache.summary import SCORE_BINS, score_histogram
from s4m_pipeline.errors import UserError
from s4m_pipeline.refine.encoder import ImageEncoder
from s4m_pipeline.refine.frame import MaskFrame
from s4m_pipeline.refine.packing import CroppedMasks, PseudoLabels
from s4m_pipeline.refine.photos import Photo
from s4m_pipeline.refine.recipe import Recipe
from s4m_pipeline.refine.refiner import Refined, refine_masks
from s4m_pipeline.refine.selection import KeptQueries, select_queries
from s4m_pipeline.refine.stopwatch import Stopwatch
from s4m_pipeline.sam import BatchedSam
from s4m_pipeline.sam.chunks import Chunker

Result = TypeVar("Result")

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Labelled:
    """A photo with its pseudo-labels, on the device."""

    photo: Photo
    kept: KeptQueries
    teacher_masks: Tensor
    """(N, H, W) bool"""
    refined: Refined | None
    """None: SAM was not asked."""

    def fetch(self) -> PseudoLabels:
        """Bring what the cache keeps to the CPU."""
        refined = self.refined
        height, width = self.kept.frame.image_hw_px
        return PseudoLabels(
            image_id=self.photo.image_id,
            image_hw_px=(height, width),
            label=self.kept.label.cpu().numpy(),
            score=self.kept.score.cpu().numpy(),
            teacher_masks=CroppedMasks.of(self.teacher_masks),
            refined_masks=None if refined is None else CroppedMasks.of(refined.masks),
            predicted_iou=None if refined is None else refined.predicted_iou.cpu().numpy(),
        )


class Labeller:
    """Teacher and SAM with the recipe that joins them.

    The labels of an image depend on nothing but the image, the two networks, the recipe and the number of the
    generation. The teacher always computes full batches (the last photo is repeated), so that its arithmetic,
    which decides where points are drawn, is the same for every image of one input size. When device memory
    runs out, batches are halved, once and for all; labels are then the same but for the last bits of that
    arithmetic.

    Args:
        teacher: `InstanceMask2Former` in eval mode, on its device.
        sam: None keeps the teacher's masks.
        encoder: embeds photos for `sam`.
        generation: number of the generation.
        batch_size: photos per pass of the teacher.
        precision: of the teacher on a GPU: "fp32", "bf16" or "fp16".

    Attributes:
        stopwatch: seconds spent on the teacher, the encoder, the decoder and on masks.
        score_histogram: int64 [SCORE_BINS]: best object class confidence of every query so far, kept or not.
    """

    def __init__(
        self,
        teacher: Any,
        sam: BatchedSam | None,
        encoder: ImageEncoder | None,
        recipe: Recipe,
        *,
        generation: int,
        batch_size: int,
        precision: str = "fp32",
    ) -> None:
        self.teacher = teacher
        self.sam = sam
        self.encoder = encoder
        self.recipe = recipe
        self.generation = generation
        self.batch_size = batch_size
        self.chunks = Chunker(batch_size, "image")
        self.precision = precision
        self.stopwatch = Stopwatch()
        self.score_histogram = np.zeros(SCORE_BINS, np.int64)

    @property
    def divisor_px(self) -> int:
        """Inputs are padded to multiples of this."""
        return int(self.teacher.data_preprocessor.pad_size_divisor)

    @property
    def on_gpu(self) -> bool:
        """Whether the teacher is on a GPU."""
        return next(self.teacher.parameters()).is_cuda

    @property
    def max_instances(self) -> int:
        """Labels that an image can have: the teacher's queries."""
        return int(self.teacher.panoptic_head.num_queries)

    def label(self, photos: Sequence[Photo]) -> list[Labelled]:
        """Label up to `batch_size` photos whose inputs have one padded size.

        Raises:
            UserError: if the teacher's output is not finite, or the device has no memory for one image.
        """
        return self._in_chunks(photos, lambda labelled: labelled)

    def label_and_fetch(self, photos: Sequence[Photo]) -> list[PseudoLabels]:
        """Label as `label`, and bring what the cache keeps to the CPU."""

        def fetch(labelled: list[Labelled]) -> list[PseudoLabels]:
            with self.stopwatch.measure("masks"):
                return [image.fetch() for image in labelled]

        return self._in_chunks(photos, fetch)

    @torch.inference_mode()
    def _in_chunks(
        self, photos: Sequence[Photo], finish: Callable[[list[Labelled]], list[Result]]
    ) -> list[Result]:
        """Whatever runs out of device memory on the way, is done again with half as many photos."""

        def run(start: int, stop: int) -> tuple[list[Result], NDArray[np.int64]]:
            labelled, scores = self._label_chunk(photos[start:stop])
            return finish(labelled), scores

        results: list[Result] = []
        for _, (finished, histogram) in self.chunks.map(run, len(photos)):
            self.score_histogram += histogram  # not before, or a repeated chunk would count twice
            results += finished
        return results

    def _label_chunk(self, photos: Sequence[Photo]) -> tuple[list[Labelled], NDArray[np.int64]]:
        measure = self.stopwatch.measure
        with measure("teacher"):
            kept, histogram = self._kept_queries(photos)
        with measure("masks"):
            teacher_masks = [_full_size(labels) for labels in kept]
        refined = self._refine(photos, kept)
        labelled = [Labelled(*parts) for parts in zip(photos, kept, teacher_masks, refined, strict=True)]
        return labelled, histogram

    def _kept_queries(self, photos: Sequence[Photo]) -> tuple[list[KeptQueries], NDArray[np.int64]]:
        frames = [MaskFrame(_size(photo.pixels), _size(photo.inputs)) for photo in photos]
        found = self._ask_teacher(photos, frames)
        recipe, kept = self.recipe, []
        for (class_logits, mask_logits), frame in zip(found, frames, strict=True):
            kept.append(
                select_queries(
                    class_logits,
                    mask_logits,
                    frame,
                    min_score=recipe.min_score,
                    min_soft_area=recipe.min_soft_area,
                    nms_iou=recipe.nms_iou,
                )
            )
        scores = torch.cat([logits.softmax(-1)[:, :-1].amax(-1) for logits, _ in found]).cpu().numpy()
        if not np.isfinite(scores).all():
            raise UserError(
                f"The teacher's output is not finite (NaN or Inf) for some of the images with ids "
                f"{[photo.image_id for photo in photos]}.\n"
                "Take another checkpoint with --teacher, or compute with teacher.precision=fp32."
            )
        return kept, score_histogram(scores)

    def _ask_teacher(
        self, photos: Sequence[Photo], frames: Sequence[MaskFrame]
    ) -> list[tuple[Tensor, Tensor]]:
        missing = self.chunks.size - len(photos)
        inputs = [photo.inputs for photo in photos]
        samples = [
            DetDataSample(metainfo={"img_shape": frame.input_hw_px, "ori_shape": frame.image_hw_px})
            for frame in [*frames, *[frames[-1]] * missing]
        ]
        data = self.teacher.data_preprocessor(
            {"inputs": inputs + inputs[-1:] * missing, "data_samples": samples}
        )
        dtype = AUTOCAST.get(self.precision) if data["inputs"].is_cuda else None
        with torch.autocast("cuda", dtype, enabled=dtype is not None):
            found: list[tuple[Tensor, Tensor]] = self.teacher.mask_queries(
                data["inputs"], data["data_samples"]
            )
        return found[: len(photos)]

    def _refine(self, photos: Sequence[Photo], kept: Sequence[KeptQueries]) -> list[Refined | None]:
        if self.sam is None or self.encoder is None or self.recipe.prompt is None:
            return [None] * len(photos)
        chosen = [index for index, labels in enumerate(kept) if len(labels)]
        refined: list[Refined | None] = [
            Refined(torch.zeros(0, *labels.frame.image_hw_px, dtype=torch.bool), torch.zeros(0))
            for labels in kept
        ]
        if not chosen:
            return refined
        with self.stopwatch.measure("encoder"):
            embeddings = self.encoder.encode([photos[index] for index in chosen])
        with self.stopwatch.measure("decoder"):
            results = refine_masks(
                self.sam,
                embeddings,
                [kept[index] for index in chosen],
                [photos[index].image_id for index in chosen],
                kind=self.recipe.prompt,
                num_points=self.recipe.points,
                seed=self.recipe.seed,
                generation=self.generation,
            )
        for index, result in zip(chosen, results, strict=True):
            refined[index] = result
        return refined


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _full_size(labels: KeptQueries) -> Tensor:
    """The teacher's masks (N, H, W) bool in the size of the image, a few at a time."""
    size = labels.frame.image_hw_px
    if not len(labels):
        return torch.zeros(0, *size, dtype=torch.bool)
    return torch.cat([labels.frame.resample(some, size) > 0 for some in labels.mask_logits.split(16)])
