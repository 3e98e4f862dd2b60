"""Pseudo-labels of a batch of photos: the teacher finds objects, SAM 2 redraws them."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from numpy.typing import NDArray
from torch import Tensor

from s4m_cache.embeddings import EmbeddingStore, store_path
from s4m_cache.masks import Masks
from s4m_cache.summary import SCORE_BINS, score_histogram
from s4m_pipeline.config.groups import PromptType, Recipe
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.packed_masks import masks_at_a_time, pack_masks
from s4m_pipeline.data.tiles import Tile, Tiling
from s4m_pipeline.refine.images import Photo, batches_by_size
from s4m_pipeline.refine.inputs import Networks, RefineInputs
from s4m_pipeline.refine.labels import Labels, merge_labels
from s4m_pipeline.refine.prompts import refine_masks
from s4m_pipeline.refine.selection import (
    VIEWS,
    Candidates,
    MaskFrame,
    as_first,
    average_views,
    select_queries,
    view_of,
)
from s4m_pipeline.refine.stopwatch import Stopwatch
from s4m_pipeline.sam import BatchedSam
from s4m_pipeline.sam.chunks import Chunker
from s4m_pipeline.sam.encoder import ImageEncoder, open_store

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Labeler:
    """Teacher and SAM with the recipe that joins them.

    The labels of an image depend on nothing but the image, the two networks, the recipe and the number of the
    generation (on a GPU also, by rounding, on how many prompts SAM decodes at a time). The teacher always
    computes full batches (the last photo is repeated), so that its arithmetic, which decides where points are
    drawn, is the same for every image of one input size. When device memory runs out, batches are halved for
    good; labels are then the same except for the last bits of that arithmetic.

    Args:
        teacher: `InstanceMask2Former` in eval mode, on its device.
        encoder: SAM and what embeds photos for it; None without SAM.
        recipe: which queries are kept, and how points are drawn.
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
        encoder: ImageEncoder | None,
        recipe: Recipe,
        *,
        generation: int,
        batch_size: int,
        precision: str = "fp32",
    ) -> None:
        self.teacher = teacher
        self.encoder = encoder
        self.recipe = recipe
        self.generation = generation
        self.batch_size = batch_size
        self.chunks = Chunker(batch_size, "image")
        self.precision = precision
        self.stopwatch = Stopwatch()
        self.score_histogram = np.zeros(SCORE_BINS, np.int64)

    @property
    def on_gpu(self) -> bool:
        """Whether the teacher is on a GPU."""
        return next(self.teacher.parameters()).is_cuda

    @property
    def max_instances(self) -> int | None:
        """Labels that an image can have: the teacher's queries; None: in tiles, it may have more."""
        return None if self.teacher.tiling else int(self.teacher.panoptic_head.num_queries)

    def batches(self, photos: Iterable[Photo]) -> Iterator[list[Photo]]:
        """Batches of photos to be labeled."""
        divisor = int(self.teacher.data_preprocessor.pad_size_divisor)
        return batches_by_size(photos, self.batch_size, divisor, self.teacher.tiling)

    @torch.inference_mode()
    def label(
        self, photos: Sequence[Photo], prompts: Sequence[PromptType | None]
    ) -> list[dict[PromptType | None, Labels]]:
        """Label up to `batch_size` photos whose inputs have one padded size, with each kind of prompt.

        The teacher and SAM's encoder run once for all kinds.

        Args:
            photos: images for the teacher and for SAM.
            prompts: how SAM is asked; None stands for the teacher's own masks.

        Raises:
            UserError: if the teacher's output is not finite, or the device has no memory for one image.
        """
        tiling = self.teacher.tiling
        if tiling is not None and max(max(_size(photo.inputs)) for photo in photos) > tiling.size_px:
            return [self._label_tiles(photo, tiling, prompts) for photo in photos]
        results: list[dict[PromptType | None, Labels]] = []
        chunks = self.chunks.map(functools.partial(self._label_chunk, photos, prompts), len(photos))
        for _, (labels, histogram) in chunks:
            self.score_histogram += histogram  # not before, or a repeated chunk would count twice
            results += labels
        return results

    def _label_tiles(
        self, photo: Photo, tiling: Tiling, prompts: Sequence[PromptType | None]
    ) -> dict[PromptType | None, Labels]:
        """Labels of a large photo, each of whose tiles is labeled as if it were a photo of its own."""
        tiles = tiling.cut(_size(photo.inputs), _size(photo.pixels))
        found: list[dict[PromptType | None, Labels]] = []
        for start in range(0, len(tiles), self.batch_size):
            some = [_tile_of(photo, tile) for tile in tiles[start : start + self.batch_size]]
            found += self.label(some, prompts)
        boxes = [tile.image_box for tile in tiles]
        with self.stopwatch.measure("masks"):
            return merge_labels(photo.image_id, _size(photo.pixels), boxes, found)

    def _label_chunk(
        self, photos: Sequence[Photo], prompts: Sequence[PromptType | None], start: int, stop: int
    ) -> tuple[list[dict[PromptType | None, Labels]], NDArray[np.int64]]:
        """Labels of photos `[start, stop)` by kind of prompt, and the histogram of the queries' scores."""
        photos, recipe = photos[start:stop], self.recipe
        frames = [MaskFrame(_size(photo.pixels), _size(photo.inputs)) for photo in photos]
        with self.stopwatch.measure("teacher"):
            find = self._query_views if recipe.augmented else self._run_teacher
            queries = find(photos, frames)
            histogram = _histogram(queries, photos)
            candidates = [
                select_queries(
                    class_logits,
                    mask_logits,
                    frame,
                    min_score=recipe.min_score,
                    min_soft_area=recipe.min_soft_area,
                    nms_iou=recipe.nms_iou,
                    min_mask_score=recipe.min_mask_score,
                )
                for (class_logits, mask_logits), frame in zip(queries, frames, strict=True)
            ]
        with self.stopwatch.measure("masks"):
            labels = [_teacher_labels(*pair) for pair in zip(photos, candidates, strict=True)]
        return self._refine(photos, candidates, labels, prompts), histogram

    def _refine(
        self,
        photos: Sequence[Photo],
        candidates: Sequence[Candidates],
        labels: Sequence[Labels],
        prompts: Sequence[PromptType | None],
    ) -> list[dict[PromptType | None, Labels]]:
        """The labels of each photo, for each kind of prompt with SAM's masks."""
        measure = self.stopwatch.measure
        results: list[dict[PromptType | None, Labels]] = [dict.fromkeys(prompts, own) for own in labels]
        chosen = [index for index, found in enumerate(candidates) if len(found)]
        kinds = [prompt for prompt in prompts if prompt is not None]
        if self.encoder is None or not chosen or not kinds:
            return results
        image_ids = [photos[index].image_id for index in chosen]
        with measure("encoder"):
            embeddings = self.encoder.encode(image_ids, [photos[index].pixels for index in chosen])
        for kind in kinds:
            with measure("decoder"):
                refined = refine_masks(
                    self.encoder.sam,
                    embeddings,
                    [candidates[index] for index in chosen],
                    image_ids,
                    kind=kind,
                    num_points=self.recipe.points,
                    seed=self.recipe.seed,
                    generation=self.generation,
                )
            with measure("masks"):
                for index, (masks, predicted_iou) in zip(chosen, refined, strict=True):
                    results[index][kind] = dataclasses.replace(
                        labels[index],
                        refined_masks=masks,
                        predicted_iou=predicted_iou.cpu().numpy(),
                    )
        return results

    def _query_views(
        self, photos: Sequence[Photo], frames: Sequence[MaskFrame]
    ) -> list[tuple[Tensor, Tensor]]:
        """As `_run_teacher`, averaged over several views of each photo."""
        preprocessor, by_view = self.teacher.data_preprocessor, []
        for scale, mirrored in VIEWS:
            divisor, fill = int(preprocessor.pad_size_divisor), preprocessor.mean.cpu()
            seen = [view_of(photo.inputs, scale, mirrored, divisor, fill) for photo in photos]
            views = [photo._replace(inputs=pixels) for photo, (pixels, *_) in zip(photos, seen, strict=True)]
            sizes = [
                MaskFrame(frame.image_hw_px, (h, w)) for frame, (_, h, w) in zip(frames, seen, strict=True)
            ]
            found = zip(self._run_teacher(views, sizes), frames, strict=True)
            by_view.append([(c, as_first(masks, mirrored, frame.grid_hw)) for (c, masks), frame in found])
        of_photos = zip(*by_view, strict=True)
        return [average_views(*map(torch.stack, zip(*views, strict=True))) for views in of_photos]

    def _run_teacher(
        self, photos: Sequence[Photo], frames: Sequence[MaskFrame]
    ) -> list[tuple[Tensor, Tensor]]:
        """Class logits (Q, classes + 1) and mask logits (Q, h, w) of each photo."""
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
            queries: list[tuple[Tensor, Tensor]] = self.teacher.mask_queries(
                data["inputs"], data["data_samples"]
            )
        return queries[: len(photos)]


def build_labeler(
    inputs: RefineInputs, networks: Networks, generation: int, *, root: Path | None = None
) -> Labeler:
    """A labeler for a generation; with a `root`, embeddings may be stored below it."""
    options, sam = inputs.options, networks.sam
    encoder = None
    if sam is not None:
        keep = options.cache.embeddings and root is not None and options.tiles.size_px is None
        encoder = ImageEncoder(sam, _embedding_store(inputs, sam, root) if keep and root else None)
    return Labeler(
        networks.teacher,
        encoder,
        options.refine,
        generation=generation,
        batch_size=options.refine.batch_size,
        precision=options.teacher.precision,
    )


def _embedding_store(inputs: RefineInputs, sam: BatchedSam, root: Path) -> EmbeddingStore:
    fingerprint = inputs.fingerprint()
    needed = ("sam", "sam weights", "sam config", "sam precision", "embeddings", "image names")
    of_embeddings = {name: fingerprint[name] for name in needed}
    return open_store(
        store_path(root, of_embeddings),
        sam,
        [image.id for image in inputs.unlabeled.images],
        of_embeddings,
        int(inputs.options.cache.embeddings_gb * 1e9),
    )


def _tile_of(photo: Photo, tile: Tile) -> Photo:
    (top, left, bottom, right), (y0, x0, y1, x1) = tile.image_box, tile.input_box
    return Photo(
        photo.image_id,
        photo.pixels[:, top:bottom, left:right].contiguous(),
        photo.inputs[:, y0:y1, x0:x1].contiguous(),
    )


def _histogram(queries: Sequence[tuple[Tensor, Tensor]], photos: Sequence[Photo]) -> NDArray[np.int64]:
    """How confident the queries of these photos are of an object, by bin; refuses NaN and Inf."""
    scores = torch.cat([logits.softmax(-1)[:, :-1].amax(-1) for logits, _ in queries]).cpu().numpy()
    if not np.isfinite(scores).all():
        raise UserError(
            f"The teacher's output is not finite (NaN or Inf) for some of the images with ids "
            f"{[photo.image_id for photo in photos]}.\n"
            "Use another checkpoint with --teacher, or compute with teacher.precision=fp32."
        )
    return score_histogram(scores)


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _teacher_labels(photo: Photo, candidates: Candidates) -> Labels:
    """Labels with the teacher's own masks, on the CPU."""
    size, logits = candidates.frame.image_hw_px, candidates.mask_logits
    pieces = logits.split(masks_at_a_time(size, logits.device)) if len(candidates) else ()
    masks = Masks.join([pack_masks(candidates.frame.resample(some, size) > 0) for some in pieces])
    return Labels(
        image_id=photo.image_id,
        image_hw_px=size,
        label=candidates.label.cpu().numpy(),
        score=candidates.score.cpu().numpy(),
        teacher_masks=masks,
        refined_masks=masks,
        predicted_iou=candidates.mask_score.cpu().numpy(),
    )
