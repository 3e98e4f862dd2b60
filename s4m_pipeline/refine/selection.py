"""Which of the teacher's queries become pseudo-labels (paper, section 3.2): decided before any upsampling.

With test-time augmentation, the queries are averaged over an image in several sizes and its mirror images.
Axes: Q queries of one image, N kept ones, h x w the teacher's mask size (stride 4), V views, the first one
the image as it is, C classes with "no object" last.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from s4m_cache.masks import MATCH_IOU
from s4m_pipeline.evaluation.duplicates import keep_first

STRIDE_PX = 4
"""Pixels of the network's input per cell of Mask2Former's masks, either way."""
VIEWS = tuple((scale, mirrored) for scale in (1.0, 0.75, 1.5) for mirrored in (False, True))
"""Size of each view, relative to the network's input, and whether it is mirrored."""


@dataclass(frozen=True)
class MaskFrame:
    """Where the cells of the teacher's masks lie on the original image.

    The image was resized to the network's input and padded; a mask has one cell for every 4 x 4 input pixels.

    Where the input's size is no multiple of 4, the last row or column of cells lies partly in the padding.
    """

    image_hw_px: tuple[int, int]
    """Height and width of the original image."""
    input_hw_px: tuple[int, int]
    """Height and width of the network's input, without padding."""

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of cells that touch the image."""
        height, width = (-(-side // STRIDE_PX) for side in self.input_hw_px)
        return height, width

    @property
    def cell_wh_px(self) -> tuple[float, float]:
        """Width and height of a cell in pixels of the original image."""
        (height, width), (input_height, input_width) = self.image_hw_px, self.input_hw_px
        return STRIDE_PX * width / input_width, STRIDE_PX * height / input_height

    def resample(self, logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Logits (N, h, w) on the grid as (N, *size_hw) over exactly the image, bilinear as in evaluation."""
        height, width = self.grid_hw
        fine = _resize(logits, (STRIDE_PX * height, STRIDE_PX * width))
        fine = fine[:, : self.input_hw_px[0], : self.input_hw_px[1]]
        return fine if size_hw == self.input_hw_px else _resize(fine, size_hw)


@dataclass(frozen=True)
class Candidates:
    """The queries of one image that become pseudo-labels, by falling score; on the device."""

    label: Tensor
    """(N,) int64 contiguous class index."""
    score: Tensor
    """(N,) float32 softmax confidence of that class."""
    mask_score: Tensor
    """(N,) float32 mean probability of the mask in its positive cells."""
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
    min_mask_score: float = 0.0,
) -> Candidates:
    """Keep confident queries with a visible mask.

    Args:
        class_logits: (Q, classes + 1), the last column "no object".
        mask_logits: (Q, h, w).
        frame: how the h x w cells lie on the image.
        min_score: the winning class must be an object class of softmax confidence above this.
        min_soft_area: `sum(sigmoid(mask))` must be above this, in cells of the mask.
        nms_iou: drop a query whose binary mask has at least this IoU with a more confident one's; None: keep.
        min_mask_score: the mean probability of the positive cells must be above this.
    """
    score, label = class_logits.float().softmax(dim=-1).max(dim=-1)
    is_object = label < class_logits.shape[-1] - 1
    candidates = (is_object & (score > min_score)).nonzero()[:, 0]
    candidates = candidates[score[candidates].argsort(descending=True, stable=True)]
    masks = mask_logits[candidates].float()
    probability, inside = masks.sigmoid().flatten(1), (masks > 0).flatten(1)
    mask_score = (probability * inside).sum(1) / inside.sum(1).clamp(min=1)
    # A mask without a single positive cell has no place for a prompt.
    visible = (probability.sum(1) > min_soft_area) & inside.any(1) & (mask_score > min_mask_score)
    candidates, masks, mask_score = candidates[visible], masks[visible], mask_score[visible]
    if nms_iou is not None:
        keep = mask_nms(masks > 0, nms_iou)
        candidates, masks, mask_score = candidates[keep], masks[keep], mask_score[keep]
    return Candidates(label[candidates], score[candidates], mask_score, masks, frame)


def mask_nms(masks: Tensor, max_iou: float) -> Tensor:
    """Indices of the masks to keep, int64; `masks` (N, h, w) bool is sorted by falling score.

    Greedy: a mask goes when a kept one before it overlaps it with an IoU of `max_iou` or more.
    """
    flat = masks.flatten(1).float()
    intersection = flat @ flat.T
    area = flat.sum(dim=1)
    overlaps = intersection / (area[:, None] + area[None] - intersection).clamp(min=1) >= max_iou
    return torch.tensor(keep_first(overlaps.cpu().numpy()), dtype=torch.int64, device=masks.device)


def _resize(logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[:, None], size_hw, mode="bilinear", align_corners=False)[:, 0]


def view_of(
    image_CHW: Tensor, scale: float, mirrored: bool, divisor: int, fill_C: Tensor
) -> tuple[Tensor, int, int]:
    """An image in another size, padded at the bottom and right, and its height and width without padding.

    Images that are padded to the same size by themselves, to multiples of `divisor`, are so in any view:
    else what the network computes would depend on the other images of its batch.
    """
    height, width = (round(scale * side) for side in image_CHW.shape[-2:])
    padded = [
        -(-round(scale * -(-side // divisor) * divisor) // divisor) * divisor for side in image_CHW.shape[-2:]
    ]
    resized = F.interpolate(image_CHW[None].float(), (height, width), mode="bilinear", align_corners=False)[0]
    canvas = fill_C.view(-1, 1, 1).expand(-1, *padded).to(resized, copy=True)
    canvas[:, :height, :width] = resized.flip(-1) if mirrored else resized
    return canvas, height, width


def as_first(mask_Qhw: Tensor, mirrored: bool, grid_hw: tuple[int, int]) -> Tensor:
    """Mask logits of a view on the grid of the first one."""
    masks = mask_Qhw.flip(-1) if mirrored else mask_Qhw
    return F.interpolate(masks[:, None], grid_hw, mode="bilinear", align_corners=False)[:, 0]


def average_views(class_VQC: Tensor, mask_VQhw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean class and mask probabilities, as logits (Q, C) and (Q, h, w), of the queries of the first view.

    In each other view, the query whose mask fits best is the same object, if the IoU is above 0.5; else that
    view says "no object", and nothing about the mask.
    """
    probability_VQC, binary_VQP = class_VQC.softmax(-1), (mask_VQhw > 0).flatten(2).float()
    classes, masks = probability_VQC[0].clone(), mask_VQhw[0].sigmoid()
    count_Q = torch.ones_like(classes[:, 0])
    nothing_C = torch.eye(classes.shape[1], device=classes.device)[-1]
    for view in range(1, len(class_VQC)):
        shared_QQ = binary_VQP[0] @ binary_VQP[view].T
        area_QQ = binary_VQP[0].sum(1)[:, None] + binary_VQP[view].sum(1) - shared_QQ
        iou_Q, same_Q = (shared_QQ / area_QQ.clamp(min=1)).max(1)
        found_Q = iou_Q > MATCH_IOU
        classes += torch.where(found_Q[:, None], probability_VQC[view, same_Q], nothing_C)
        masks += found_Q[:, None, None] * mask_VQhw[view, same_Q].sigmoid()
        count_Q += found_Q
    return (classes / len(class_VQC)).log(), (masks / count_Q[:, None, None]).logit(eps=1e-6)
