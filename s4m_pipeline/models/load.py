"""From a config to a network, and with a checkpoint to one that predicts."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import ConfigDict
from mmengine.device import get_device

from s4m_pipeline.config.weight_files import TORCHVISION
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.experiment.checkpoints import latest_checkpoint
from s4m_pipeline.models.checkpoint import TRAINING_ONLY, Weights, read_weights
from s4m_pipeline.models.fitting import initialize, load_weights, require_fit
from s4m_pipeline.models.registry import register_all

if TYPE_CHECKING:
    from s4m_pipeline.models.mask2former import InstanceMask2Former


def load_network(
    config: Mapping[str, Any], weights: Weights, num_classes: int, device: str | None = None
) -> "InstanceMask2Former":
    """The network of a config with a checkpoint's weights, in eval mode.

    Args:
        config: the whole config as plain values (`load_experiment`).
        weights: every tensor of the network, and no others but those that only distillation uses.
        num_classes: object classes that the network tells apart.
        device: where it computes; None: the first GPU, or the CPU.

    Raises:
        UserError: if the weights do not fit the config's network.
    """
    network = build_network(config, num_classes)
    load_weights(network, _without_training_only(weights))
    return network.to(device or get_device()).eval()


def check_start(
    folder: Path,
    init_from: str | None,
    config: Mapping[str, Any],
    classes: tuple[str, ...],
    *,
    overwrite: bool,
    allow_partial: bool,
    trust: bool,
) -> None:
    """Refuse initial weights that a training could not start from, before it writes or computes anything.

    Args:
        folder: of the training; one that resumes from a checkpoint does not need initial weights.
        init_from: file or name (`find_weights`), address in torchvision, or None for random weights.
        config: the whole config as plain values.
        overwrite: an earlier training is ignored.
        allow_partial: only some tensors need to fit.

    Raises:
        UserError: as `read_weights`, `initialize` and, unless `allow_partial`, `require_fit`.
    """
    if init_from is None or init_from.startswith(TORCHVISION):
        return
    if overwrite or latest_checkpoint(folder) is None:
        weights = read_weights(init_from, trust=trust)
        network = build_network(config, len(classes))
        weights = _without_training_only(weights)
        if not allow_partial:
            require_fit(network, weights, classes)
        initialize(network, weights, classes)


def build_network(config: Mapping[str, Any], num_classes: int) -> "InstanceMask2Former":
    """The network of a config on the CPU, with its random weights."""
    register_all()

    from mmdet.registry import MODELS

    network: InstanceMask2Former = MODELS.build(model_config(config["model"], num_classes))
    return network


def _without_training_only(weights: Weights) -> Weights:
    """The same without what only distillation uses."""
    kept = {name: value for name, value in weights.tensors.items() if not name.startswith(TRAINING_ONLY)}
    return replace(weights, tensors=kept)


def named_classes(weights: Weights) -> tuple[str, ...]:
    """The classes that a checkpoint was trained for, by label.

    Raises:
        UserError: if the file does not say.
    """
    if not weights.classes:
        raise UserError(
            f"{weights.file} does not say which classes it was trained for.\n"
            "Expected the weights.safetensors or a checkpoint of a training stage, "
            "or a file of `s4m export weights`."
        )
    return weights.classes


def model_config(model: Mapping[str, Any], num_classes: int, init_from: str | None = None) -> ConfigDict:
    """A Mask2Former config with everything filled in that follows from the number of object classes.

    The class weight of "no object" is 0.1 (Mask2Former; S4M keeps it).

    Args:
        init_from: initial weights; `torchvision://NAME` is left to mmdet, which fetches the backbone.

    Raises:
        UserError: if the config lacks a part.
    """
    try:
        return _filled_in(model, num_classes, init_from)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"The config's model lacks a part of a Mask2Former ({type(error).__name__}: {error}).\n"
            "Expected model.backbone, model.panoptic_head with a loss_cls, and model.panoptic_fusion_head, "
            "each a dict, as `s4m config demo` shows them."
        ) from error


def _filled_in(model: Mapping[str, Any], num_classes: int, init_from: str | None) -> ConfigDict:
    model = ConfigDict(copy.deepcopy(dict(model)))  # mmdet's constructors need mmengine's kind of dict
    if init_from is not None and init_from.startswith(TORCHVISION):
        model["backbone"]["init_cfg"] = {"type": "Pretrained", "checkpoint": init_from}
    for part in ("panoptic_head", "panoptic_fusion_head"):
        model[part].update(num_things_classes=num_classes, num_stuff_classes=0)
    model["panoptic_head"]["loss_cls"]["class_weight"] = [1.0] * num_classes + [0.1]
    return model
