"""From a config and a checkpoint to a network that predicts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmengine.device import get_device

from s4m_pipeline.engine.checkpoint import Weights, load_weights
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
    register_all()

    from mmdet.registry import MODELS

    from s4m_pipeline.models.distilled import DISTILLATION

    lasting = {name: value for name, value in weights.tensors.items() if not name.startswith(DISTILLATION)}
    network: InstanceMask2Former = MODELS.build(model_config(parts["model"], num_classes))
    load_weights(network, replace(weights, tensors=lasting))
    return network.to(device or get_device()).eval()


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
