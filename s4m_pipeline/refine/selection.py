"""Which of the teacher's queries become pseudo-labels (paper, section 3.2): decided before any upsampling.

Axes: Q queries of one image, N kept ones, h x w the teacher's mask size (stride 4).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from s4m_pipeline.refine.frame import MaskFrame


@dataclass(frozen=True)
class KeptQueries:
    """The pseudo-labels of one image, by falling score."""

    label: Tensor
    """(N,) int64 contiguous class index."""
    score: Tensor
    """(N,) float32 softmax confidence of that class."""
    mask_logits: Tensor
    """(N, h, w) float32; each has a positive cell."""
    frame: MaskFrame
    """How the h x w cells lie on the image."""

    def __len__(self) -> int:
        return len(self.label)


def select_queries(
    class_logits: Tensor,
    mask_logits: Tensor,
    frame: MaskFrame,
    *,
    min_score: float = 0.7,
    min_soft_area: float = 5.0,
    nms_iou: float | None = None,
) -> KeptQueries:
    """Keep confident queries with a visible mask.

    Args:
        class_logits: (Q, classes + 1), the last column "no object".
        mask_logits: (Q, h, w).
        frame: how the h x w cells lie on the image.
        min_score: the winning class must be an object class of softmax confidence above this.
        min_soft_area: `sum(sigmoid(mask))` must be above this, in cells of the mask.
        nms_iou: drop a query whose binary mask has at least this IoU with a more confident one's; None: keep.
    """
    score, label = class_logits.float().softmax(dim=-1).max(dim=-1)
    is_object = label < class_logits.shape[-1] - 1
    candidates = (is_object & (score > min_score)).nonzero()[:, 0]
    candidates = candidates[score[candidates].argsort(descending=True, stable=True)]
    masks = mask_logits[candidates].float()
    soft_area = masks.sigmoid().sum(dim=(1, 2))
    # A mask without a single positive cell has no place for a prompt.
    visible = (soft_area > min_soft_area) & (masks > 0).flatten(1).any(dim=1)
    candidates, masks = candidates[visible], masks[visible]
    if nms_iou is not None:
        keep = mask_nms(masks > 0, nms_iou)
        candidates, masks = candidates[keep], masks[keep]
    return KeptQueries(label[candidates], score[candidates], masks, frame)


def mask_nms(masks: Tensor, max_iou: float) -> Tensor:
    """Indices of the masks to keep, int64; `masks` (N, h, w) bool is sorted by falling score.

    Greedy: a mask goes when a kept one before it overlaps it with an IoU of `max_iou` or more.
    """
    flat = masks.flatten(1).float()
    intersection = flat @ flat.T
    area = flat.sum(dim=1)
    overlaps = (intersection / (area[:, None] + area[None] - intersection).clamp(min=1) >= max_iou).cpu()
    keep: list[int] = []
    for index in range(len(overlaps)):
        if not overlaps[index, keep].any():
            keep.append(index)
    return torch.tensor(keep, dtype=torch.int64, device=masks.device)
