"""Mask2Former's decoder with fused attention: mmdet's modules, without the weights that theirs returns.

Axes: B images, Q queries, C width, L tokens of a level, h x w cells of the masks.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import MultiheadAttention
from mmdet.models.dense_heads import Mask2FormerHead
from torch import Tensor


def decode(
    head: Mask2FormerHead, mask_features: Tensor, levels: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Class logits (B, Q, classes + 1) and mask logits (B, Q, h, w) of the queries, then after each layer.

    Args:
        head: whose modules compute.
        mask_features: (B, C, h, w).
        levels: feature maps (B, C, ...), coarsest first, which the layers attend to in turn.
    """
    features, positions = [], []
    for level, project, of_level in zip(
        levels, head.decoder_input_projs, head.level_embed.weight, strict=True
    ):
        features.append(project(level).flatten(2).mT + of_level)
        positions.append(head.decoder_positional_encoding(None, level).flatten(2).mT)
    queries, places = (
        embedding.weight.expand(mask_features.shape[0], -1, -1)
        for embedding in (head.query_feat, head.query_embed)
    )
    classes, masks = [], []
    for number, layer in enumerate([*head.transformer_decoder.layers, None]):
        normed = head.transformer_decoder.post_norm(queries)
        classes.append(head.cls_embed(normed))
        masks.append(head.mask_embed(normed) @ mask_features.flatten(2))
        masks[-1] = masks[-1].unflatten(2, mask_features.shape[2:])
        if layer is None:
            break
        turn = number % len(levels)
        inside = _inside(masks[-1], levels[turn].shape[2:])
        keys = features[turn] + positions[turn]
        queries = layer.norms[0](
            queries + _attend(layer.cross_attn, queries + places, keys, features[turn], inside)
        )
        placed = queries + places
        queries = layer.norms[1](queries + _attend(layer.self_attn, placed, placed, queries))
        queries = layer.norms[2](layer.ffn(queries))
    return classes, masks


def _inside(masks: Tensor, size: Sequence[int]) -> Tensor:
    """(B, 1, Q, L) bool: tokens of a level inside each query's mask; all, if none is."""
    resized = F.interpolate(masks.detach(), tuple(size), mode="bilinear", align_corners=False)
    inside = resized.sigmoid().flatten(2) >= 0.5
    return (inside | (inside.sum(-1, keepdim=True) == 0))[:, None]


def _attend(
    layer: MultiheadAttention, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None
) -> Tensor:
    """Multi-head attention (B, Q, C) with output projection and dropout."""
    attention = layer.attn
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    query, key, value = (
        F.linear(tokens, weight, bias).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
        for tokens, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
    )
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=allowed, dropout_p=attention.dropout if attention.training else 0.0
    )
    return layer.dropout_layer(layer.proj_drop(attention.out_proj(attended.transpose(1, 2).flatten(2))))
