"""SAM 2's image encoder, two-way transformer and mask head as functions: equal to `sam2`'s, but cheaper.

- `image_pyramid` computes only the feature levels that are used, and none of the position encodings, which
  image mode never reads.
- `two_way` computes the image side of the first block once per image. Before block 0 the image tokens are
  the same for all prompts of an image (unless a prompt has a mask), so their three projections need not be
  repeated for every prompt: 0.8 of 2.7 GFLOP per prompt at 64 x 64 tokens of width 256.
- `make_masks` upscales in token layout. sam2 upscales with two transposed convolutions of kernel 2 and
  stride 2. Their windows do not overlap, so each is a matrix product that yields the 2 x 2 children of a
  token. In token order no feature map is transposed, layer norms are fused, and skip features are the
  addends of the products.

Axes: R rows of image tokens (images or prompts), N or n prompts, T prompt tokens, L = h * w image tokens, C
width, D = C / 2 width inside cross-attention, M masks. The children of a token are in (row, column) order:
4 of width C / 4 at stride 8, then 4 of width C / 8 below each of them at stride 4.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from sam2.modeling.backbones.image_encoder import ImageEncoder
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor, nn


def image_pyramid(encoder: ImageEncoder, images: Tensor, levels: int) -> list[Tensor]:
    """The first `levels` feature maps of prepared images (B, 3, S, S), of strides 16, 8 and 4.

    Equal to `backbone_fpn` of the encoder, in reverse order.
    """
    neck = encoder.neck
    features = encoder.trunk(images)
    coarsest = len(features) - 1
    maps: list[Tensor] = []
    for i in range(coarsest, coarsest - encoder.scalp - levels, -1):
        level = neck.convs[coarsest - i](features[i])
        if maps and i in neck.fpn_top_down_levels:
            smooth = neck.fpn_interp_model != "nearest"
            # sam2 adds in fp32, regardless of the compute dtype.
            above = F.interpolate(
                maps[-1].float(),
                scale_factor=2.0,
                mode=neck.fpn_interp_model,
                align_corners=False if smooth else None,
            )
            level = level + above
            if neck.fuse_type == "avg":
                level = level / 2
        maps.append(level)
    return maps[encoder.scalp :]


class ImageSide(NamedTuple):
    """Image tokens and their projections for the attentions of a block."""

    tokens_RLC: Tensor
    keys_RLD: Tensor
    values_RLD: Tensor
    queries_RLD: Tensor

    def rows(self, index_N: Tensor) -> "ImageSide":
        """Gather one row per prompt: that of its image."""
        return ImageSide(*(tensor[index_N] for tensor in self))


def project_image_side(block: TwoWayAttentionBlock, tokens_RLC: Tensor, pe_1LC: Tensor) -> ImageSide:
    """Project image tokens: keys and values for prompt-to-image attention, queries for image-to-prompt."""
    # As in sam2, positions are added to keys and queries, but not to values.
    with_position = tokens_RLC + pe_1LC
    return ImageSide(
        tokens_RLC,
        block.cross_attn_token_to_image.k_proj(with_position),
        block.cross_attn_token_to_image.v_proj(tokens_RLC),
        block.cross_attn_image_to_token.q_proj(with_position),
    )


def two_way(
    transformer: TwoWayTransformer, first: ImageSide, prompt_NTC: Tensor, pe_1LC: Tensor
) -> tuple[Tensor, Tensor]:
    """Run all two-way blocks; `first` is the image side of block 0, one row per prompt.

    Returns prompt tokens (N, T, C) and image tokens (N, L, C), both before the final attention.
    """
    first_block, *blocks = transformer.layers
    # sam2 passes the prompt tokens twice: as the first queries, and as the positions that each block adds.
    queries, image_tokens = _run_block(first_block, first, prompt_NTC, prompt_NTC)
    for block in blocks:  # from here on image tokens differ between prompts: (N, L, C)
        side = project_image_side(block, image_tokens, pe_1LC)
        queries, image_tokens = _run_block(block, side, queries, prompt_NTC)
    return queries, image_tokens


def final_attention(
    transformer: TwoWayTransformer, queries: Tensor, prompt_NTC: Tensor, keys: Tensor, pe: Tensor
) -> Tensor:
    """The final attention of prompt tokens to image tokens, (N, T, C)."""
    attended = transformer.final_attn_token_to_image(q=queries + prompt_NTC, k=keys + pe, v=keys)
    normalized: Tensor = transformer.norm_final_attn(queries + attended)
    return normalized


def _run_block(
    block: TwoWayAttentionBlock, side: ImageSide, queries: Tensor, query_pe: Tensor
) -> tuple[Tensor, Tensor]:
    if block.skip_first_layer_pe:
        queries = block.self_attn(q=queries, k=queries, v=queries)
    else:
        with_position = queries + query_pe
        queries = queries + block.self_attn(q=with_position, k=with_position, v=queries)
    queries = block.norm1(queries)

    # Prompt-to-image attention: queries (N, T, D); keys and values (N, L, D), already projected.
    to_image = block.cross_attn_token_to_image
    attended = _attend(to_image, to_image.q_proj(queries + query_pe), side.keys_RLD, side.values_RLD)
    queries = block.norm2(queries + attended)
    queries = block.norm3(queries + block.mlp(queries))

    # Image-to-prompt attention: queries (N, L, D), already projected; keys and values (N, T, D).
    to_token = block.cross_attn_image_to_token
    keys, values = to_token.k_proj(queries + query_pe), to_token.v_proj(queries)
    return queries, block.norm4(side.tokens_RLC + _attend(to_token, side.queries_RLD, keys, values))


def _attend(attention: Attention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Multi-head attention of already projected tokens, including the output projection."""
    heads = (attention._separate_heads(x, attention.num_heads) for x in (queries, keys, values))
    attended: Tensor = attention.out_proj(attention._recombine_heads(F.scaled_dot_product_attention(*heads)))
    return attended


class Skips(NamedTuple):
    """Skip features plus the biases of the convolutions that they are added to, in token order."""

    stride_8: Tensor
    """(R, L, C)"""
    stride_4: Tensor
    """(R, 4L, C / 2)"""

    def rows(self, index_N: Tensor) -> "Skips":
        """Gather one row per prompt: that of its image."""
        return Skips(self.stride_8[index_N], self.stride_4[index_N])


def fold_skips(decoder: MaskDecoder, stride_8: Tensor, stride_4: Tensor) -> Skips:
    """Reorder skip features (R, C / 4, 2h, 2w) and (R, C / 8, 4h, 4w) into token order."""
    rows, width_8, double_height, double_width = stride_8.shape
    height, width, width_4 = double_height // 2, double_width // 2, stride_4.shape[1]
    # Including the bias of the transposed convolution, so that `baddbmm` in `make_masks` adds both.
    children = stride_8 + decoder.output_upscaling[0].bias[:, None, None]
    grandchildren = stride_4 + decoder.output_upscaling[3].bias[:, None, None]
    # (R, C/4, h, row, w, column) -> (R, h, w, row, column, C/4), the 2 x 2 children beside their token, and
    # (R, C/8, h, row, row', w, column, column') -> (R, h, w, row, column, row', column', C/8).
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
    # (n, L, C) @ (C, 4 C/4) -> (n, L, 4 C/4), reshaped to (n, 4L, C/4)
    children = torch.baddbmm(skips.stride_8, image_tokens, _weight_matrix(upscale_8).expand(n, -1, -1))
    children = children.reshape(n, num_tokens * 4, -1)
    children = activation_8(F.layer_norm(children, children.shape[-1:], norm.weight, norm.bias, norm.eps))
    # (n, 4L, C/4) @ (C/4, 4 C/8) -> (n, 4L, 4 C/8), reshaped to (n, 16L, C/8)
    grandchildren = torch.baddbmm(skips.stride_4, children, _weight_matrix(upscale_4).expand(n, -1, -1))
    grandchildren = activation_4(grandchildren).reshape(n, num_tokens * 16, -1)
    # (n, M, C/8) @ (n, C/8, 16L) -> (n, M, 16L). Tokens are rearranged to rows and columns only now, with M
    # channels instead of C/8:
    # (n, M, h, w, row, column, row', column') -> (n, M, h, row, row', w, column, column').
    logits = kernels @ grandchildren.transpose(1, 2)
    return (
        logits.reshape(n, -1, height, width, 2, 2, 2, 2)
        .permute(0, 1, 2, 4, 6, 3, 5, 7)
        .reshape(n, -1, 4 * height, 4 * width)
    )


def _weight_matrix(convolution: nn.ConvTranspose2d) -> Tensor:
    """Weights (in, out, 2, 2) as a matrix (in, 4 * out), the columns grouped by child."""
    weight = convolution.weight
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
