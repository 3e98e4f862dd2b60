"""Photometric augmentation on the training device, with the paper's transforms (section 3.3).

Axes: B images, H x W the padded size.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2

from s4m_pipeline.config.student import PhotometricOptions


@torch.no_grad()
def strong_augment(
    pixels_B3HW: Tensor, sizes_hw: Sequence[tuple[int, int]], options: PhotometricOptions
) -> Tensor:
    """Color jitter, grayscale and Gaussian blur, drawn for each image separately.

    All draws come from torch's global CPU generator, so they are the same on every device. Padding stays as
    it is, and neither contrast nor blur reads it. The blur's kernel reaches three of the largest standard
    deviations to each side, or as far as the reflection at the edge of a smaller image allows.

    Args:
        pixels_B3HW: (B, 3, H, W) float32 RGB in [0, 1]; not modified. A fourth channel, depth, stays.
        sizes_hw: valid area of each image, at the top left, in pixels.

    Returns:
        The same shape, float32 in [0, 1].
    """
    augmented = pixels_B3HW.clone()
    for image, (height, width) in zip(augmented, sizes_hw, strict=True):
        valid = image[:3, :height, :width]
        valid.copy_(_transform(options, min(height, width))(valid).clamp(0, 1))
    return augmented


def _transform(options: PhotometricOptions, shorter_side_px: int) -> v2.Transform:
    reach_px = min(math.ceil(3 * options.blur_sigma_px[1]), shorter_side_px - 1)
    return v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(*options.jitter)], options.jitter_p),
            v2.RandomGrayscale(options.grey_p),
            v2.RandomApply([v2.GaussianBlur(2 * reach_px + 1, options.blur_sigma_px)], options.blur_p),
        ]
    )
