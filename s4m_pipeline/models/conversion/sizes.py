"""The sizes of a Mask2Former, read from the shapes of its tensors."""

from collections.abc import Callable, Iterator, Mapping
from math import isqrt
from typing import Any

from torch import Tensor

_RESNET_DEPTHS: dict[tuple[int, ...], int] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_DECODER = "panoptic_head.pixel_decoder."
_HEAD = "model.panoptic_head."


def differing_settings(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Lines `KEY=VALUE` for the settings in which a file differs from a model.

    Args:
        tensors: the file's, under our names.
        own: the model's.
    """
    theirs, ours = settings(tensors), settings(own)
    return [f"{key}={value}" for key, value in theirs.items() if ours.get(key) != value]


def settings(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of a config that follow from the tensors of a network, as far as it has them."""
    return dict(_backbone(tensors)) | dict(_head(tensors))


def _backbone(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    def blocks(prefix: str, stages: range) -> tuple[int, ...]:
        return tuple(_count(tensors, prefix.format(stage)) for stage in stages)

    if "backbone.patch_embed.projection.weight" in tensors:
        table = "backbone.stages.{}.blocks.0.attn.w_msa.relative_position_bias_table"
        tables = [found for stage in range(4) if (found := tensors.get(table.format(stage))) is not None]
        yield "model.backbone.type", "SwinTransformer"
        yield "model.backbone.embed_dims", len(tensors["backbone.patch_embed.projection.weight"])
        yield "model.backbone.depths", list(blocks("backbone.stages.{}.blocks.", range(4)))
        yield "model.backbone.num_heads", [found.shape[1] for found in tables]
        # (2 window - 1)^2 rows, one for each relative position in a window
        yield "model.backbone.window_size", (isqrt(len(tables[0])) + 1) // 2 if tables else None
    elif "backbone.layer1.0.conv1.weight" in tensors:
        counts = blocks("backbone.layer{}.", range(1, 5))
        yield "model.backbone.type", "ResNet"
        yield "model.backbone.depth", _RESNET_DEPTHS.get(counts, counts)
        yield "model.backbone.base_channels", len(tensors["backbone.layer1.0.conv1.weight"])


def _head(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    rows: Callable[[Tensor], int] = len
    sizes: list[tuple[str, str, Callable[[Tensor], int]]] = [
        ("num_queries", "panoptic_head.query_feat.weight", rows),
        ("feat_channels", f"{_DECODER}level_encoding.weight", lambda tensor: tensor.shape[1]),
        ("out_channels", f"{_DECODER}mask_feature.weight", rows),
        *(
            (f"{part}.layer_cfg.ffn_cfg.feedforward_channels", f"{where}layers.0.ffn.layers.0.0.weight", rows)
            for part, where in (
                ("pixel_decoder.encoder", f"{_DECODER}encoder."),
                ("transformer_decoder", "panoptic_head.transformer_decoder."),
            )
        ),
    ]
    for key, name, size in sizes:
        if name in tensors:
            yield _HEAD + key, size(tensors[name])
    levels = [f"{_DECODER}lateral_convs.0.conv.weight"]
    levels += [f"{_DECODER}input_convs.{level}.conv.weight" for level in (2, 1, 0)]  # level 0 has stride 32
    if all(name in tensors for name in levels):
        yield f"{_HEAD}in_channels", [tensors[name].shape[1] for name in levels]
    for key, prefix in (
        ("pixel_decoder.encoder", f"{_DECODER}encoder.layers."),
        ("transformer_decoder", "panoptic_head.transformer_decoder.layers."),
    ):
        if count := _count(tensors, prefix):
            yield f"{_HEAD}{key}.num_layers", count


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbers follow a prefix in the names."""
    return len({name[len(prefix) :].partition(".")[0] for name in tensors if name.startswith(prefix)})
