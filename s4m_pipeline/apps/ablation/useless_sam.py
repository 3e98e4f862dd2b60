"""Importing this module makes refinement useless: SAM 2 is asked for places a third of the image away.

For the table of docs/ablations.md that shows what happens then; a config names it in `custom_imports`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from s4m_pipeline.refine import labeler
from s4m_pipeline.refine.prompts import Refined, refine_masks
from s4m_pipeline.refine.selection import Candidates
from s4m_pipeline.sam import BatchedSam, ImageEmbeddings


def refine_elsewhere(
    sam: BatchedSam, embeddings: ImageEmbeddings, kept: Sequence[Candidates], *rest: Any, **options: Any
) -> list[Refined]:
    """As `refine_masks`, with prompts from the teacher's masks moved by a third of the image's sides."""
    moved = []
    for candidates in kept:
        height, width = candidates.mask_logits.shape[-2:]
        logits = candidates.mask_logits.roll((height // 3, width // 3), (-2, -1))
        moved.append(dataclasses.replace(candidates, mask_logits=logits))
    return refine_masks(sam, embeddings, moved, *rest, **options)


def undo() -> None:
    """Refine as before."""
    labeler.refine_masks = refine_masks


labeler.refine_masks = refine_elsewhere
