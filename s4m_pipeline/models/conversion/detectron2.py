"""Detectron2 checkpoints of Mask2Former, and of Guided Distillation and S4M, which are built on it.

ResNet's names are Detectron2's, Swin's those of its own code.
"""

from collections.abc import Mapping

from torch import Tensor

from s4m_pipeline.models.conversion.tables import Table, prefixed, renamed, reordered_merging

NETWORKS = {"teacher": "modelTeacher.", "student": "modelStudent."}
"""Prefixes of the networks that one file may hold; published scores of a file with both are the student's."""

_RESNET: Table = [
    ("backbone.stem.conv1.weight", "backbone.conv1.weight"),
    ("backbone.stem.conv1.norm.*", "backbone.bn1.*"),
    *(
        pair
        for stage in range(1, 5)
        for pair in prefixed(
            f"backbone.res{stage + 1}.*.",
            f"backbone.layer{stage}.*.",
            [
                ("conv*.weight", "conv*.weight"),
                ("conv*.norm.*", "bn*.*"),
                ("shortcut.weight", "downsample.0.weight"),
                ("shortcut.norm.*", "downsample.1.*"),
            ],
        )
    ),
]
_SWIN: Table = [
    ("backbone.patch_embed.proj.*", "backbone.patch_embed.projection.*"),
    *prefixed(
        "backbone.layers.*.blocks.*.",
        "backbone.stages.*.blocks.*.",
        [
            ("norm*.*", "norm*.*"),
            ("attn.relative_position_index", None),
            ("attn.**", "attn.w_msa.**"),
            ("mlp.fc1.*", "ffn.layers.0.0.*"),
            ("mlp.fc2.*", "ffn.layers.1.*"),
        ],
    ),
    ("backbone.layers.*.downsample.**", "backbone.stages.*.downsample.**"),
]
_PIXEL_DECODER: Table = [
    ("input_proj.*.0.*", "input_convs.*.conv.*"),
    ("input_proj.*.1.*", "input_convs.*.gn.*"),
    ("transformer.level_embed", "level_encoding.weight"),
    *prefixed(
        "transformer.encoder.layers.*.",
        "encoder.layers.*.",
        [
            ("self_attn.**", "self_attn.**"),
            ("norm1.*", "norms.0.*"),
            ("norm2.*", "norms.1.*"),
            ("linear1.*", "ffn.layers.0.0.*"),
            ("linear2.*", "ffn.layers.1.*"),
        ],
    ),
    ("adapter_1.weight", "lateral_convs.0.conv.weight"),
    ("adapter_1.norm.*", "lateral_convs.0.gn.*"),
    ("layer_1.weight", "output_convs.0.conv.weight"),
    ("layer_1.norm.*", "output_convs.0.gn.*"),
    ("mask_features.*", "mask_feature.*"),
]
_LAYER = "transformer_decoder.layers.*."
_PREDICTOR: Table = [
    ("transformer_cross_attention_layers.*.multihead_attn.**", f"{_LAYER}cross_attn.attn.**"),
    ("transformer_cross_attention_layers.*.norm.*", f"{_LAYER}norms.0.*"),
    ("transformer_self_attention_layers.*.self_attn.**", f"{_LAYER}self_attn.attn.**"),
    ("transformer_self_attention_layers.*.norm.*", f"{_LAYER}norms.1.*"),
    ("transformer_ffn_layers.*.linear1.*", f"{_LAYER}ffn.layers.0.0.*"),
    ("transformer_ffn_layers.*.linear2.*", f"{_LAYER}ffn.layers.1.*"),
    ("transformer_ffn_layers.*.norm.*", f"{_LAYER}norms.2.*"),
    ("decoder_norm.*", "transformer_decoder.post_norm.*"),
    ("query_feat.weight", "query_feat.weight"),
    ("static_query.weight", "query_feat.weight"),  # its name in older files
    ("query_embed.weight", "query_embed.weight"),
    ("level_embed.weight", "level_embed.weight"),
    ("class_embed.*", "cls_embed.*"),
    *((f"mask_embed.layers.{n}.*", f"mask_embed.{2 * n}.*") for n in range(3)),
]
TABLE: Table = [
    *_RESNET,
    *_SWIN,
    *prefixed("sem_seg_head.predictor.", "panoptic_head.", _PREDICTOR),
    *prefixed("sem_seg_head.pixel_decoder.", "panoptic_head.pixel_decoder.", _PIXEL_DECODER),
    *prefixed("sem_seg_head.", "panoptic_head.pixel_decoder.", _PIXEL_DECODER),  # in older files
    ("criterion.empty_weight", None),
    ("ssl_criterion.empty_weight", None),
]


def from_detectron2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One network's tensors, without prefix, under our names; unknown ones keep theirs."""
    return reordered_merging(renamed(tensors, TABLE))


def networks(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The networks of a file by name; one without prefixes is the student's."""
    found = {
        network: {
            name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
        }
        for network, prefix in NETWORKS.items()
    }
    return {network: part for network, part in found.items() if part} or {"student": dict(tensors)}
