"""Test-time augmentation of the teacher: what it says of an image in several sizes, and of its mirror image.

Axes: V views, the first one the image as it is; Q queries, C classes with "no object" last, h x w cells.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from s4m_cache.masks import MATCH_IOU

VIEWS = tuple((scale, mirrored) for scale in (1.0, 0.75, 1.5) for mirrored in (False, True))
"""Size of each view, relative to the network's input, and whether it is mirrored."""


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
