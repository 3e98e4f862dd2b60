"""Weights put into a network: all, those of a part, or those that fit; else the settings that would fit."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.models.checkpoint import Weights, require_classes

_CLASS_LAYER = "panoptic_head.cls_embed."
_CLASS_TENSORS = (_CLASS_LAYER, "panoptic_head.loss_cls.")
"""Prefixes of tensors whose shape or meaning depends on the list of classes."""

_QUERY_TENSORS = ("panoptic_head.query_embed.weight", "panoptic_head.query_feat.weight")
"""Tensors with a row per query: the first rows are taken, and a model's further queries stay random."""

_PARTS = ("backbone.", "panoptic_head.pixel_decoder.")
"""Prefixes of the parts of a network that initial weights may consist of."""

_DEPTH = "depth_fusion."
"""Prefix of what takes in depth maps, whose effect is zero at first."""

_NOT_LEARNED = (".num_batches_tracked", ".relative_position_index")
"""Endings of what files may lack, because it is not used or follows from the sizes."""
_RESNET_DEPTHS: dict[tuple[int, ...], int] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_DECODER = "panoptic_head.pixel_decoder."
_HEAD = "model.panoptic_head."


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Put weights into a model; every tensor of both must match.

    Raises:
        UserError: naming the tensors that are missing, unknown, or of a different shape, and the settings of
            the config with which they would fit.
    """
    _refuse_mismatch(
        model, weights, set(model.state_dict()), "Use the config that the checkpoint was trained with."
    )
    model.load_state_dict(weights.tensors, strict=False)  # what is not learned may be missing


def require_fit(model: nn.Module, weights: Weights, classes: tuple[str, ...]) -> None:
    """Refuse initial weights unless they are those of the whole model or of whole `_PARTS` of it.

    Weights for any classes may lack the class layer, and may have another number of queries than the model;
    published ones may have other classes; those of a network without depth maps lack the layers for them.

    Args:
        classes: the model's.

    Raises:
        UserError: if the classes differ, or naming the tensors that do not fit or are missing.
    """
    given = weights
    if weights.classes != classes and (weights.published or weights.classes is not None):
        kept = {name: value for name, value in weights.tensors.items() if not name.startswith(_CLASS_TENSORS)}
        weights = replace(weights, tensors=kept)
    weights, needed = _with_queries_of(model, weights), set(model.state_dict())
    if not any(name.startswith(_DEPTH) for name in weights.tensors):
        needed = {name for name in needed if not name.startswith(_DEPTH)}
    if all(name.startswith(_PARTS) for name in weights.tensors):
        parts = tuple(part for part in _PARTS if any(name.startswith(part) for name in weights.tensors))
        needed = {name for name in needed if name.startswith(parts)}
    elif not any(name.startswith(_CLASS_TENSORS) for name in weights.tensors):
        needed = {name for name in needed if not name.startswith(_CLASS_TENSORS)}
    _refuse_mismatch(model, weights, needed, "Pass --allow-partial to start from what fits.")
    if not given.published:
        require_classes(given, classes, "labeled data")


def initialize(model: nn.Module, weights: Weights, classes: tuple[str, ...]) -> str:
    """Initialize a model from the weights that fit; if classes differ, with the rows of those it shares.

    Args:
        classes: the model's.

    Returns:
        One line that says how many tensors were used, for which classes, and how many queries they lack.

    Raises:
        UserError: if nothing fits.
    """
    own, given = model.state_dict(), weights
    weights = _with_queries_of(model, weights)
    other_classes = weights.classes not in (None, classes)
    fitting = {
        name: value
        for name, value in weights.tensors.items()
        if name in own
        and own[name].shape == value.shape
        and not (other_classes and name.startswith(_CLASS_TENSORS))
    }
    if not fitting:
        raise UserError(
            f"{weights.file}: none of its {len(weights.tensors)} tensors fits the model of this config.\n"
            "Expected weights of this network or of its backbone. Set init_from to another file, or to None."
        )
    about = ""
    if other_classes:
        rows, about = _shared_rows(own, weights, classes)
        fitting |= rows
    model.load_state_dict(fitting, strict=False)
    lacking = max([len(own[n]) - len(given.tensors[n]) for n in _QUERY_TENSORS if n in fitting], default=0)
    about += f"; {lacking} queries that it lacks start at random" if lacking > 0 else ""
    return f"{len(fitting)} of {len(own)} tensors initialized from {weights.file}{about}"


def holds_backbone(model: nn.Module, weights: Weights) -> bool:
    """Whether weights replace all that is learned in the backbone of a model."""
    return all(
        name in weights.tensors and weights.tensors[name].shape == value.shape
        for name, value in model.state_dict().items()
        if name.startswith("backbone.") and not name.endswith(_NOT_LEARNED)
    )


def _shared_rows(
    own: Mapping[str, Tensor], weights: Weights, classes: tuple[str, ...]
) -> tuple[dict[str, Tensor], str]:
    """The model's class layer with the file's rows of classes of the same name and of "no object".

    Returns:
        The tensors, none if no class is shared, and words for the user.
    """
    theirs = weights.classes or ()
    shared = [name for name in classes if name in theirs]
    names = [
        name
        for name in own
        if name.startswith(_CLASS_LAYER)
        and name in weights.tensors
        and own[name].shape[1:] == weights.tensors[name].shape[1:]
    ]
    if not shared or not names:
        return {}, "; it has different classes: the class layer starts at random"
    to = [*(classes.index(name) for name in shared), len(classes)]
    source = [*(theirs.index(name) for name in shared), len(theirs)]
    rows = {}
    for name in names:
        rows[name] = own[name].clone()
        rows[name][to] = weights.tensors[name][source].to(rows[name])
    rest = len(classes) - len(shared)
    return rows, f"; its class layer for {', '.join(shared)} and no object; {rest} classes start at random"


def _with_queries_of(model: nn.Module, weights: Weights) -> Weights:
    """The same weights with as many queries as the model: the first ones, then the model's own."""
    own, tensors = model.state_dict(), dict(weights.tensors)
    for name in _QUERY_TENSORS:
        if name in own and name in tensors and own[name].shape[1:] == tensors[name].shape[1:]:
            joined = torch.cat([tensors[name], own[name][len(tensors[name]) :]])
            tensors[name] = joined[: len(own[name])]
    return replace(weights, tensors=tensors)


def _refuse_mismatch(model: nn.Module, weights: Weights, needed: set[str], remedy: str) -> None:
    """Refuse weights with a tensor that does not fit, or without one of the `needed` names."""
    own = model.state_dict()
    faults = []
    for name, value in weights.tensors.items():
        if name not in own:
            faults.append(f"{name}: not in the model")
        elif own[name].shape != value.shape:
            faults.append(f"{name}: {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the model")
    faults += [
        f"{name}: not in the file"
        for name in own
        if name in needed and name not in weights.tensors and not name.endswith(_NOT_LEARNED)
    ]
    if faults:
        shown = "\n  ".join(faults[:10]) + (f"\n  and {len(faults) - 10} more" if len(faults) > 10 else "")
        if settings := differing_settings(weights.tensors, own):
            remedy = (
                "Settings of the config with which it would fit:\n  " + "\n  ".join(settings) + f"\n{remedy}"
            )
        raise UserError(
            f"{weights.file} does not fit the model of this config (what fits: "
            f"{_fitting_parts(weights.tensors, own)}):\n  {shown}\n{remedy}"
        )


def _fitting_parts(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """How many tensors of each part of the model the file has, for messages."""
    parts = {name: name.partition(".")[0] for name in own}
    fits = [
        part for name, part in parts.items() if name in tensors and tensors[name].shape == own[name].shape
    ]
    counts = (
        f"{part} {fits.count(part)} of {list(parts.values()).count(part)}"
        for part in sorted(set(parts.values()))
    )
    return f"{', '.join(counts)} tensors"


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
