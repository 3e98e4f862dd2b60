"""SAM 2 redraws the teacher's masks (paper, section 3.2): all instances of a batch of images at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s4m_pipeline.refine.prompts import draw_uniforms, make_prompts
from s4m_pipeline.refine.recipe import PromptType
from s4m_pipeline.refine.selection import KeptQueries
from s4m_pipeline.sam import BatchedSam, ImageEmbeddings, Prompts, full_size_masks


@dataclass(frozen=True)
class Refined:
    """SAM's masks for the N pseudo-labels of one image, in their order."""

    masks: Tensor
    """(N, H, W) bool, on SAM's device."""
    predicted_iou: Tensor
    """(N,) float32."""


def refine_masks(
    sam: BatchedSam,
    embeddings: ImageEmbeddings,
    kept: Sequence[KeptQueries],
    image_ids: Sequence[int],
    *,
    kind: PromptType = "points",
    num_points: int = 3,
    seed: int = 0,
    generation: int = 0,
) -> list[Refined]:
    """The mask of highest predicted IoU for a prompt drawn from each of the teacher's masks.

    Args:
        embeddings: of B images.
        kept: the B images' pseudo-labels; an image may have none.
        image_ids: with `seed` and `generation`, all that an image's random points depend on.
    """
    sizes = embeddings.image_hw_px
    height, width = embeddings.tokens_BChw.shape[-2:]
    prompts = [
        make_prompts(
            kind,
            labels.mask_logits,
            labels.frame,
            uniforms=draw_uniforms(seed, generation, image_id, len(labels), num_points),
            sam_logits_size=(4 * height, 4 * width),
        )
        for labels, image_id in zip(kept, image_ids, strict=True)
    ]
    counts = torch.tensor([len(labels) for labels in kept])
    image_index = torch.arange(len(kept)).repeat_interleave(counts)
    decoded = sam.decode(embeddings, image_index, Prompts.cat(prompts))
    logits, iou = decoded.logits[:, 0], decoded.iou[:, 0]
    masks: list[list[Tensor]] = [[] for _ in kept]
    for rows, full in full_size_masks(logits, image_index.to(logits.device), sizes):
        masks[int(image_index[int(rows[0])])].append(full)
    empty = [torch.zeros((0, *size), dtype=torch.bool, device=logits.device) for size in sizes]
    return [
        Refined(torch.cat([none, *pieces]), of_image)
        for none, pieces, of_image in zip(empty, masks, iou.split(counts.tolist()), strict=True)
    ]
