"""From a config and a checkpoint to a network that predicts."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.device import get_device

from s4m_pipeline.config.weight_files import TORCHVISION
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.experiment.checkpoints import latest_checkpoint
from s4m_pipeline.models.checkpoint import TRAINING_ONLY, Weights, read_weights
from s4m_pipeline.models.fitting import initialize, load_weights, require_fit
from s4m_pipeline.models.model_config import model_config
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
    network = _build(config, num_classes)
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
        network = _build(config, len(classes))
        weights = _without_training_only(weights)
        if not allow_partial:
            require_fit(network, weights, classes)
        initialize(network, weights, classes)


def _build(config: Mapping[str, Any], num_classes: int) -> "InstanceMask2Former":
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
