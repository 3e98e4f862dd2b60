"""SAM's mask head in token layout: upscaling by matrix products, masks from hypernetwork kernels.

sam2 upscales with two transposed convolutions of kernel and stride 2. Their windows do not overlap, so each
is a matrix product per token that yields the token's 2 x 2 children. Kept in token order until the masks are
made, no feature map is ever transposed, layer norms are fused, and skip features are the products' addends.

Axes: R rows (images), n prompts, L = h * w tokens, C width, M masks. A token's children are in (row, column)
order: 4 of width C / 4 at stride 8, then 4 of width C / 8 below each at stride 4.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from sam2.modeling.sam.mask_decoder import MaskDecoder
from torch import Tensor, nn


class Skips(NamedTuple):
    """Skip features with the biases of the products they are added to, in token order."""

    stride_8: Tensor
    """(R, L, C)"""
    stride_4: Tensor
    """(R, 4L, C / 2)"""

    def rows(self, index_N: Tensor) -> "Skips":
        """One row per prompt: the row of its image."""
        return Skips(self.stride_8[index_N], self.stride_4[index_N])


def fold_skips(decoder: MaskDecoder, stride_8: Tensor, stride_4: Tensor) -> Skips:
    """Bring skip features (R, C / 4, 2h, 2w) and (R, C / 8, 4h, 4w) into token order."""
    rows, width_8, double_height, double_width = stride_8.shape
    height, width, width_4 = double_height // 2, double_width // 2, stride_4.shape[1]
    children = stride_8 + decoder.output_upscaling[0].bias[:, None, None]
    grandchildren = stride_4 + decoder.output_upscaling[3].bias[:, None, None]
    return Skips(
        children.reshape(rows, width_8, height, 2, width, 2)
        .permute(0, 2, 4, 3, 5, 1)
        .reshape(rows, height * width, 4 * width_8),
        grandchildren.reshape(rows, width_4, height, 2, 2, width, 2, 2)
        .permute(0, 2, 5, 3, 6, 4, 7, 1)
        .reshape(rows, height * width * 4, 4 * width_4),
    )


def make_masks(
    decoder: MaskDecoder, image_tokens: Tensor, skips: Skips, kernels: Tensor, height: int, width: int
) -> Tensor:
    """Mask logits (n, M, 4h, 4w) of image tokens (n, L, C) and kernels (n, M, C / 8)."""
    upscale_8, norm, activation_8, upscale_4, activation_4 = decoder.output_upscaling
    n, num_tokens, _ = image_tokens.shape
    children = torch.baddbmm(skips.stride_8, image_tokens, _product_of(upscale_8).expand(n, -1, -1))
    children = children.reshape(n, num_tokens * 4, -1)
    children = activation_8(F.layer_norm(children, children.shape[-1:], norm.weight, norm.bias, norm.eps))
    grandchildren = torch.baddbmm(skips.stride_4, children, _product_of(upscale_4).expand(n, -1, -1))
    grandchildren = activation_4(grandchildren).reshape(n, num_tokens * 16, -1)
    logits = kernels @ grandchildren.transpose(1, 2)
    return (
        logits.reshape(n, -1, height, width, 2, 2, 2, 2)
        .permute(0, 1, 2, 4, 6, 3, 5, 7)
        .reshape(n, -1, 4 * height, 4 * width)
    )


def _product_of(convolution: nn.ConvTranspose2d) -> Tensor:
    """Weights (in, out, 2, 2) as a matrix (in, 4 * out) whose columns are child by child."""
    weight = convolution.weight
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
