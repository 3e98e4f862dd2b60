"""From a config and a checkpoint to a network that predicts."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.device import get_device

from s4m_pipeline.engine.checkpoint import (
    TORCHVISION,
    Weights,
    initialise,
    latest_checkpoint,
    load_weights,
    read_weights,
    require_fit,
)
from s4m_pipeline.engine.parts import model_config
from s4m_pipeline.errors import UserError
from s4m_pipeline.registry import register_all

if TYPE_CHECKING:
    from s4m_pipeline.models.mask2former import InstanceMask2Former


def load_network(
    parts: Mapping[str, Any], weights: Weights, num_classes: int, device: str | None = None
) -> "InstanceMask2Former":
    """The network of a config with a checkpoint's weights, in eval mode.

    Args:
        parts: the whole config as plain values (`load_experiment`).
        weights: every tensor of the network, and no other but those that serve distillation only.
        num_classes: object classes that the network tells apart.
        device: where it computes; None: the first GPU, or the CPU.

    Raises:
        UserError: if the weights do not fit the config's network.
    """
    network = _build(parts, num_classes)
    load_weights(network, _lasting(weights))
    return network.to(device or get_device()).eval()


def check_start(
    folder: Path,
    init_from: str | None,
    parts: Mapping[str, Any],
    classes: tuple[str, ...],
    *,
    anew: bool,
    allow_partial: bool,
    trust: bool,
) -> None:
    """Refuse initial weights that a training could not begin with, before it writes or computes anything.

    Args:
        folder: of the training; it does not need them where it goes on from a checkpoint.
        init_from: file, address in torchvision, or None for chance.
        parts: the whole config as plain values.
        anew: an earlier training is to be forgotten.
        allow_partial: only some tensors need to fit.

    Raises:
        UserError: as `read_weights`, `initialise` and, unless `allow_partial`, `require_fit`.
    """
    if init_from is None or init_from.startswith(TORCHVISION):
        return
    if anew or latest_checkpoint(folder) is None:
        weights = read_weights(Path(init_from), trust=trust)
        network = _build(parts, len(classes))
        weights = _lasting(weights)
        if not allow_partial:
            require_fit(network, weights, classes)
        initialise(network, weights, classes)


def _build(parts: Mapping[str, Any], num_classes: int) -> "InstanceMask2Former":
    """The network of a config on the CPU, with the weights that its constructor gives it."""
    register_all()

    from mmdet.registry import MODELS

    network: InstanceMask2Former = MODELS.build(model_config(parts["model"], num_classes))
    return network


def _lasting(weights: Weights) -> Weights:
    """The same without what serves distillation only; to be called once everything is registered."""
    from s4m_pipeline.models.distilled import DISTILLATION

    lasting = {name: value for name, value in weights.tensors.items() if not name.startswith(DISTILLATION)}
    return replace(weights, tensors=lasting)


def named_classes(weights: Weights) -> tuple[str, ...]:
    """The classes that a checkpoint was trained for, by label.

    Raises:
        UserError: if the file does not say.
    """
    if not weights.classes:
        raise UserError(
            f"{weights.path} does not say which classes it was trained for.\n"
            "Expected the weights.safetensors or a checkpoint of a training stage, "
            "or a file of `s4m export weights`."
        )
    return weights.classes
