"""SAM's two-way transformer with the image side of its first block computed once per image.

Before block 0 the image tokens are the same for all prompts of an image (as long as no prompt carries a
mask), so their three projections there need not be repeated for every prompt: 0.8 of 2.7 GFLOP per prompt at
64 x 64 tokens of width 256. The functions below compute what `sam2`'s `TwoWayTransformer.forward` computes.

Axes: R rows of image tokens (images or prompts), N prompts, T prompt tokens, L = h * w image tokens, C width,
D = C / 2 width inside cross-attention.
"""

from typing import NamedTuple

import torch.nn.functional as F
from sam2.modeling.sam.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor


class ImageSide(NamedTuple):
    """Image tokens and what a block's attentions need of them."""

    tokens_RLC: Tensor
    keys_RLD: Tensor
    values_RLD: Tensor
    queries_RLD: Tensor

    def rows(self, index_N: Tensor) -> "ImageSide":
        """One row per prompt: the row of its image."""
        return ImageSide(*(tensor[index_N] for tensor in self))


def project_image_side(block: TwoWayAttentionBlock, tokens_RLC: Tensor, pe_1LC: Tensor) -> ImageSide:
    """Project image tokens: keys and values for the prompts' look at them, queries for their own."""
    placed = tokens_RLC + pe_1LC
    return ImageSide(
        tokens_RLC,
        block.cross_attn_token_to_image.k_proj(placed),
        block.cross_attn_token_to_image.v_proj(tokens_RLC),
        block.cross_attn_image_to_token.q_proj(placed),
    )


def two_way(
    transformer: TwoWayTransformer, first: ImageSide, prompt_NTC: Tensor, pe_1LC: Tensor
) -> tuple[Tensor, Tensor]:
    """All blocks. `first` is the image side of block 0, one row per prompt.

    Returns prompt tokens (N, T, C) and image tokens (N, L, C), both before the final attention.
    """
    first_block, *blocks = transformer.layers
    queries, image_tokens = _run_block(first_block, first, prompt_NTC, prompt_NTC)
    for block in blocks:
        side = project_image_side(block, image_tokens, pe_1LC)
        queries, image_tokens = _run_block(block, side, queries, prompt_NTC)
    return queries, image_tokens


def final_attention(
    transformer: TwoWayTransformer, queries: Tensor, prompt_NTC: Tensor, keys: Tensor, pe: Tensor
) -> Tensor:
    """The prompt tokens' last look at the image, (N, T, C)."""
    looked = transformer.final_attn_token_to_image(q=queries + prompt_NTC, k=keys + pe, v=keys)
    attended: Tensor = transformer.norm_final_attn(queries + looked)
    return attended


def _run_block(
    block: TwoWayAttentionBlock, side: ImageSide, queries: Tensor, query_pe: Tensor
) -> tuple[Tensor, Tensor]:
    if block.skip_first_layer_pe:
        queries = block.self_attn(q=queries, k=queries, v=queries)
    else:
        placed = queries + query_pe
        queries = queries + block.self_attn(q=placed, k=placed, v=queries)
    queries = block.norm1(queries)

    to_image = block.cross_attn_token_to_image
    looked = _attend(to_image, to_image.q_proj(queries + query_pe), side.keys_RLD, side.values_RLD)
    queries = block.norm2(queries + looked)
    queries = block.norm3(queries + block.mlp(queries))

    to_token = block.cross_attn_image_to_token
    keys, values = to_token.k_proj(queries + query_pe), to_token.v_proj(queries)
    return queries, block.norm4(side.tokens_RLC + _attend(to_token, side.queries_RLD, keys, values))


def _attend(attention: Attention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Multi-head attention of already projected tokens, output projection included."""
    heads = (attention._separate_heads(x, attention.num_heads) for x in (queries, keys, values))
    attended: Tensor = attention.out_proj(attention._recombine_heads(F.scaled_dot_product_attention(*heads)))
    return attended
