"""Importing this module makes refinement perfect: each mask that meets an object is replaced by the truth.

For the table of docs/ablations.md that shows what happens then; a config names it in `custom_imports`. The
truth is that of the validation images and of `refine.ground_truth`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.images import read_rgb
from s4m_pipeline.data.packed_masks import pack_masks
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.refine import labeler
from s4m_pipeline.refine.inputs import RefineInputs
from s4m_pipeline.refine.labeler import Labeler
from s4m_pipeline.refine.prompts import Refined, refine_masks
from s4m_pipeline.refine.selection import Candidates

_truth: dict[bytes, Tensor] = {}  # (M, H, W) bool masks of the image with these pixels
_shown: dict[int, bytes] = {}  # pixels of the photos that are being labeled, by id

_load_inputs, _label_chunk = RefineInputs.__init__, Labeler._label_chunk


def remember_truth(self: RefineInputs, *arguments: Any, **named: Any) -> None:
    """Also read the true masks of all images that will be labeled."""
    _load_inputs(self, *arguments, **named)
    if self.truth is not None:
        _remember(self.truth, self.unlabeled.images)
    if self.held_out is not None:
        _remember(self.held_out, self.held_out.images)


def _remember(data: CocoData, images: Sequence[CocoImage]) -> None:
    for image in images:
        masks = truth_masks(data, image).masks.dense((0, 0, image.height, image.width))
        _truth[read_rgb(image.path)[0].tobytes()] = torch.from_numpy(masks)


def remember_photos(self: Labeler, photos: Any, prompts: Any, start: int, stop: int) -> Any:
    """Also remember which images are at hand."""
    _shown.clear()
    _shown.update({photo.image_id: photo.pixels.permute(1, 2, 0).numpy().tobytes() for photo in photos})
    return _label_chunk(self, photos, prompts, start, stop)


def refine_by_truth(
    sam: Any, embeddings: Any, kept: Sequence[Candidates], image_ids: Sequence[int], **options: Any
) -> list[Refined]:
    """The true object that each of the teacher's masks overlaps most; its own where it overlaps none."""
    results = []
    for candidates, image_id in zip(kept, image_ids, strict=True):
        size = candidates.frame.image_hw_px
        own = (candidates.frame.resample(candidates.mask_logits, size) > 0).flatten(1).float()
        truth = _truth[_shown[image_id]].flatten(1).float()
        common = own @ truth.T
        masks, hit = own > 0, common.sum(1) > 0
        if hit.any():
            masks[hit] = truth[common[hit].argmax(1)] > 0
        iou = torch.where(hit, 0.99, 0.01)
        results.append(Refined(pack_masks(masks.view(len(own), *size)), iou))
    return results


def undo() -> None:
    """Refine as before."""
    RefineInputs.__init__ = _load_inputs  # type: ignore[method-assign]
    Labeler._label_chunk = _label_chunk  # type: ignore[method-assign]
    labeler.refine_masks = refine_masks


RefineInputs.__init__ = remember_truth  # type: ignore[method-assign]
Labeler._label_chunk = remember_photos  # type: ignore[method-assign]
labeler.refine_masks = refine_by_truth
