"""A network's config with everything filled in that follows from the data."""

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict

from s4m_pipeline.config.weight_files import TORCHVISION
from s4m_pipeline.core.errors import UserError


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
