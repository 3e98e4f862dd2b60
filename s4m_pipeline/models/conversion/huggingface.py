"""Mask2Former of Hugging Face's `transformers`, with Swin or ResNet, by the names in its files."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from s4m_pipeline.models.conversion.tables import Table, prefixed, renamed, reordered_merging

_ENCODER = "model.pixel_level_module.encoder."
_SWIN: Table = [
    ("embeddings.patch_embeddings.projection.*", "patch_embed.projection.*"),
    ("embeddings.norm.*", "patch_embed.norm.*"),
    *prefixed(
        "encoder.layers.*.blocks.*.",
        "stages.*.blocks.*.",
        [
            ("layernorm_before.*", "norm1.*"),
            ("layernorm_after.*", "norm2.*"),
            ("attention.self.query.*", "attn.w_msa.qkv.*#0"),
            ("attention.self.key.*", "attn.w_msa.qkv.*#1"),
            ("attention.self.value.*", "attn.w_msa.qkv.*#2"),
            ("attention.self.relative_position_bias_table", "attn.w_msa.relative_position_bias_table"),
            ("attention.self.relative_position_index", None),
            ("attention.output.dense.*", "attn.w_msa.proj.*"),
            ("intermediate.dense.*", "ffn.layers.0.0.*"),
            ("output.dense.*", "ffn.layers.1.*"),
        ],
    ),
    ("encoder.layers.*.downsample.**", "stages.*.downsample.**"),
    *((f"hidden_states_norms.stage{stage + 1}.*", f"norm{stage}.*") for stage in range(4)),
    ("swin.layernorm.*", None),  # not used by a backbone
]
_RESNET: Table = [
    ("embedder.embedder.convolution.weight", "conv1.weight"),
    ("embedder.embedder.normalization.*", "bn1.*"),
    *(
        pair
        for stage in range(4)
        for pair in prefixed(
            f"encoder.stages.{stage}.layers.*.",
            f"layer{stage + 1}.*.",
            [
                *((f"layer.{n}.convolution.weight", f"conv{n + 1}.weight") for n in range(3)),
                *((f"layer.{n}.normalization.*", f"bn{n + 1}.*") for n in range(3)),
                ("shortcut.convolution.weight", "downsample.0.weight"),
                ("shortcut.normalization.*", "downsample.1.*"),
            ],
        )
    ),
]
_FFN: Table = [("fc1.*", "ffn.layers.0.0.*"), ("fc2.*", "ffn.layers.1.*")]
_PIXEL_DECODER: Table = [
    ("input_projections.*.0.*", "input_convs.*.conv.*"),
    ("input_projections.*.1.*", "input_convs.*.gn.*"),
    ("level_embed", "level_encoding.weight"),
    *prefixed(
        "encoder.layers.*.",
        "encoder.layers.*.",
        [
            ("self_attn.**", "self_attn.**"),
            ("self_attn_layer_norm.*", "norms.0.*"),
            ("final_layer_norm.*", "norms.1.*"),
            *_FFN,
        ],
    ),
    ("adapter_1.0.weight", "lateral_convs.0.conv.weight"),
    ("adapter_1.1.*", "lateral_convs.0.gn.*"),
    ("layer_1.0.weight", "output_convs.0.conv.weight"),
    ("layer_1.1.*", "output_convs.0.gn.*"),
    ("mask_projection.*", "mask_feature.*"),
]
_DECODER: Table = [
    *prefixed(
        "decoder.layers.*.",
        "transformer_decoder.layers.*.",
        [
            ("cross_attn.**", "cross_attn.attn.**"),
            ("cross_attn_layer_norm.*", "norms.0.*"),
            *(
                (f"self_attn.{part}_proj.*", f"self_attn.attn.in_proj_*#{place}")
                for place, part in enumerate("qkv")
            ),
            ("self_attn.out_proj.*", "self_attn.attn.out_proj.*"),
            ("self_attn_layer_norm.*", "norms.1.*"),
            ("final_layer_norm.*", "norms.2.*"),
            *_FFN,
        ],
    ),
    ("decoder.layernorm.*", "transformer_decoder.post_norm.*"),
    *((f"decoder.mask_predictor.mask_embedder.{n}.0.*", f"mask_embed.{2 * n}.*") for n in range(3)),
    ("queries_features.weight", "query_feat.weight"),
    ("queries_embedder.weight", "query_embed.weight"),
    ("level_embed.weight", "level_embed.weight"),
]
TABLE: Table = [
    *prefixed(_ENCODER, "backbone.", _SWIN),
    *prefixed(_ENCODER, "backbone.", _RESNET),
    *prefixed("model.pixel_level_module.decoder.", "panoptic_head.pixel_decoder.", _PIXEL_DECODER),
    *prefixed("model.transformer_module.", "panoptic_head.", _DECODER),
    ("class_predictor.*", "panoptic_head.cls_embed.*"),
    ("criterion.empty_weight", None),
]


def from_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file under our names; unknown ones keep theirs."""
    return reordered_merging(renamed(tensors, TABLE))


def listed_classes(config: Path) -> tuple[str, ...] | None:
    """Class names by row from the config.json of a network; None without such a file."""
    try:
        names = json.loads(config.read_text(encoding="utf-8"))["id2label"]
        return tuple(names[str(row)] for row in range(len(names)))
    except (OSError, ValueError, KeyError, TypeError):
        return None
