"""Structural distillation (paper, section 3.1): the teacher learns how SAM's features resemble each other.

Axes: B images, P query points per image, C channels, h x w SAM's token grid, L = h * w tokens.
Frame: points are x, y in pixels of an image without padding; integers are pixel centers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

HUBER_DELTA = 1.0


def structural_loss(student_BPL: Tensor, target_BPL: Tensor) -> Tensor:
    """Mean Huber distance (delta 1) of two sets of similarity rows; the SD loss, a scalar.

    Args:
        student_BPL: (B, P, L) similarity rows of the network that learns.
        target_BPL: (B, P, L) similarity rows of SAM; no gradient flows into them.
    """
    return F.smooth_l1_loss(student_BPL.float(), target_BPL.detach().float(), beta=HUBER_DELTA)


def feature_loss(student_BCL: Tensor, target_BCL: Tensor) -> Tensor:
    """Mean squared distance of features: the paper's alternative to the structural loss (Tab. 5).

    Args:
        student_BCL: (B, C, L) features, projected to SAM's channels.
        target_BCL: (B, C, L) SAM's image embedding; no gradient flows into it.
    """
    return F.mse_loss(student_BCL.float(), target_BCL.detach().float())


def similarity_rows(features_BCL: Tensor, index_BP: Tensor) -> Tensor:
    """Cosine similarity of each query token to all tokens, (B, P, L) float32 in [-1, 1].

    Args:
        features_BCL: (B, C, L) features on the token grid.
        index_BP: (B, P) int64 token of each query point.
    """
    # Cosine similarity is the product of unit vectors: (B, C, P) and (B, C, L) -> (B, P, L).
    unit = F.normalize(features_BCL.float(), dim=1)
    queries = unit.gather(2, index_BP[:, None].expand(-1, unit.shape[1], -1))
    return torch.einsum("bcp,bcl->bpl", queries, unit)


def resample_to_grid(
    features: Tensor,
    image_hw_px: list[tuple[int, int]],
    padded_hw_px: tuple[int, int],
    grid_hw: tuple[int, int],
) -> Tensor:
    """Bilinear samples of a padded batch's features at the token centers of each image's own area.

    SAM sees every image squashed to a square, without the batch's padding; so must these.

    Args:
        features: (B, C, H', W') features of images padded at the right and the bottom.
        image_hw_px: size of each image before padding.
        padded_hw_px: size after padding, the extent of `features`.
        grid_hw: SAM's token grid.

    Returns:
        (B, C, h, w).
    """
    # The part of the padded height and width that each image covers, (B, 2).
    share = torch.tensor(image_hw_px, dtype=torch.float32, device=features.device) / torch.tensor(
        padded_hw_px, dtype=torch.float32, device=features.device
    )
    # Cell centers in (0, 1) of the image, scaled to the padded extent and to grid_sample's [-1, 1]:
    # y (B, h, 1) and x (B, 1, w) broadcast to a grid (B, h, w, 2) of x, y.
    centers = [(torch.arange(n, device=features.device) + 0.5) / n for n in grid_hw]
    y = centers[0][None, :, None] * share[:, 0, None, None] * 2 - 1
    x = centers[1][None, None, :] * share[:, 1, None, None] * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(x, y), dim=-1)
    return F.grid_sample(features.float(), grid, padding_mode="border", align_corners=False)


def sample_query_points(foreground: Tensor, num_points: int) -> Tensor:
    """Query points of one image: half on objects, half anywhere.

    Args:
        foreground: (H, W) bool union of the object masks, of the image without padding.
        num_points: P. If fewer than P / 2 pixels are foreground all of them are taken, and the rest of the
            points are drawn anywhere.

    Returns:
        (P, 2) float32 x, y in pixels, drawn with torch's global generator.
    """
    height, width = foreground.shape
    inside = foreground.flatten().nonzero()[:, 0]  # row * width + column of each foreground pixel
    order = torch.randperm(len(inside), device=inside.device)[: num_points // 2]
    on_objects = inside[order]
    anywhere = torch.randint(height * width, (num_points - len(on_objects),), device=inside.device)
    pixel = torch.cat([on_objects, anywhere])
    return torch.stack([pixel % width, pixel // width], dim=1).float()
