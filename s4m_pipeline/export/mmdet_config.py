"""A config that mmdet alone understands, for a network of ours."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from s4m_pipeline.engine.parts import model_config
from s4m_pipeline.errors import UserError

_MMDETS_TYPE = {"InstanceMask2Former": "Mask2Former", "BatchedMask2FormerHead": "Mask2FormerHead"}
"""What our classes add to these matters while training, or is a faster way to the same result."""

_READ_IMAGE = {"type": "LoadImageFromFile", "imdecode_backend": "pillow"}
"""Decodes as `LoadRGB` does (upright, 8 bits), but to BGR."""


def mmdet_config(parts: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Plain values that say the same as a config of ours, without any class of ours.

    Holds what mmdet's `init_detector`, `inference_detector` and `tools/test.py` read; for the last one the
    `ann_file` and `data_prefix.img` of the data are to be filled in. As mmdet reads BGR and we read RGB,
    `bgr_to_rgb` is the opposite of ours.

    Args:
        parts: the whole config as plain values (`load_experiment`).
        classes: names by label.

    Raises:
        UserError: if the test pipeline does not begin with `LoadRGB`.
    """
    model = _renamed(model_config(parts["model"], len(classes)).to_dict())
    model["backbone"].pop("init_cfg", None)
    preprocessor = model["data_preprocessor"]
    preprocessor["bgr_to_rgb"] = not preprocessor["bgr_to_rgb"]
    # mmdet cannot report more objects than there are pairs of query and class.
    pairs = model["panoptic_head"].get("num_queries", 100) * len(classes)
    most = min(model["test_cfg"]["max_per_image"], pairs)
    model["test_cfg"].update(panoptic_on=False, semantic_on=False, instance_on=True, max_per_image=most)
    pipeline = _pipeline(parts["test_pipeline"])
    dataset = {
        "type": "CocoDataset",
        "metainfo": {"classes": list(classes)},
        "ann_file": "",
        "data_prefix": {"img": ""},
        "test_mode": True,
        "pipeline": pipeline,
    }
    return {
        "default_scope": "mmdet",
        "model": model,
        "test_pipeline": pipeline,
        "test_dataloader": {
            "batch_size": 1,
            "num_workers": 2,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": dataset,
        },
        "test_cfg": {"type": "TestLoop"},
        "test_evaluator": {"type": "CocoMetric", "metric": "segm"},
    }


def _pipeline(ours: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    first, *rest = ours
    if first["type"] != "LoadRGB":
        raise UserError(
            f"test_pipeline begins with {first['type']}.\n"
            "Expected LoadRGB, the project's one way to read an image: the export depends on its colours."
        )
    return [dict(_READ_IMAGE), *copy.deepcopy([dict(transform) for transform in rest])]


def _renamed(value: Any) -> Any:
    """A copy with mmdet's classes in the place of ours."""
    if isinstance(value, Mapping):
        return {
            key: _MMDETS_TYPE.get(item, item) if key == "type" else _renamed(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):  # mmcv tells them apart
        return type(value)(_renamed(item) for item in value)
    return value
