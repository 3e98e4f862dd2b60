"""A config that mmdet alone understands, for a network of ours."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.models.load import model_config

_MMDETS_TYPE = {
    "InstanceMask2Former": "Mask2Former",
    "BatchedMask2FormerHead": "Mask2FormerHead",
    "SteadyPixelDecoder": "MSDeformAttnPixelDecoder",
}
"""Ours differ in training only, or compute the same result faster."""

_READ_IMAGE = {"type": "LoadImageFromFile", "imdecode_backend": "pillow"}
"""Decodes as `LoadRGB` does (upright, 8 bits), but to BGR."""


def mmdet_config(config: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """A config equal to one of ours as plain values, without any class of ours.

    Holds what mmdet's `init_detector`, `inference_detector` and `tools/test.py` read; for the last one, fill
    in `ann_file` and `data_prefix.img`. As mmdet reads BGR and we read RGB,
    `bgr_to_rgb` is the opposite of ours.

    Args:
        config: the whole config as plain values (`load_experiment`).
        classes: names by label.

    Raises:
        UserError: if the test pipeline does not begin with `LoadRGB`.
    """
    model = _renamed(model_config(config["model"], len(classes)).to_dict())
    model["backbone"].pop("init_cfg", None)
    preprocessor = model["data_preprocessor"]
    preprocessor["bgr_to_rgb"] = not preprocessor["bgr_to_rgb"]
    # mmdet fails if more objects are asked for than there are pairs of query and class.
    pairs = model["panoptic_head"].get("num_queries", 100) * len(classes)
    model["test_cfg"].pop("tiles", None)  # mmdet does not cut images
    most = min(model["test_cfg"]["max_per_image"], pairs)
    model["test_cfg"].update(panoptic_on=False, semantic_on=False, instance_on=True, max_per_image=most)
    pipeline = _pipeline(config["test_pipeline"])
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
            "Expected LoadRGB, whose color order the export relies on."
        )
    return [dict(_READ_IMAGE), *copy.deepcopy([dict(transform) for transform in rest])]


def _renamed(value: Any) -> Any:
    """A copy with mmdet's classes in place of ours."""
    if isinstance(value, Mapping):
        return {
            key: _MMDETS_TYPE.get(item, item) if key == "type" else _renamed(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):  # mmcv tells them apart
        return type(value)(_renamed(item) for item in value)
    return value
