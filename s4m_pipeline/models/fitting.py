"""Weights put into a network: all of them, those of a part, or those that fit."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.models.checkpoint import Weights, require_classes
from s4m_pipeline.models.conversion.sizes import differing_settings

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
    if weights.published and weights.classes != classes:
        kept = {name: value for name, value in weights.tensors.items() if not name.startswith(_CLASS_TENSORS)}
        weights = replace(weights, tensors=kept)
    else:
        require_classes(weights, classes, "labeled data")
    weights, needed = _with_queries_of(model, weights), set(model.state_dict())
    if not any(name.startswith(_DEPTH) for name in weights.tensors):
        needed = {name for name in needed if not name.startswith(_DEPTH)}
    if all(name.startswith(_PARTS) for name in weights.tensors):
        parts = tuple(part for part in _PARTS if any(name.startswith(part) for name in weights.tensors))
        needed = {name for name in needed if name.startswith(parts)}
    elif not any(name.startswith(_CLASS_TENSORS) for name in weights.tensors):
        needed = {name for name in needed if not name.startswith(_CLASS_TENSORS)}
    _refuse_mismatch(model, weights, needed, "Pass --allow-partial to start from what fits.")


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
            f"{weights.path}: none of its {len(weights.tensors)} tensors fits the model of this config.\n"
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
            f"{weights.path} does not fit the model of this config (what fits: "
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
