"""Swin backbones: those of mmdet's Mask2Former, and a network that computes with them."""

import inspect
from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
from mmengine.config import Config
from torch import nn

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.models.load import build_network
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.train.runner import optim_wrapper

CONFIGS = Path(__file__).parents[1] / "configs/cityscapes"
MMDETS = Path(mmdet.__file__).parent / ".mim/configs/mask2former"
SWINS = {
    "swin_t": "mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py",
    "swin_b": "mask2former_swin-b-p4-w12-384_8xb2-lsj-50e_coco-panoptic.py",
}


def parts_of(name: str) -> dict[str, Any]:
    return load_experiment(CONFIGS / f"cityscapes_{name}.py", [])[1]


@pytest.mark.parametrize("name", SWINS)
def test_swin__has_the_settings_of_mmdets(name: str) -> None:
    register_all()

    from mmdet.models.backbones import SwinTransformer

    theirs = Config.fromfile(MMDETS / SWINS[name]).model
    ours = parts_of(name)["model"]
    defaults = {
        key: item.default for key, item in inspect.signature(SwinTransformer.__init__).parameters.items()
    }
    wanted = {**defaults, **theirs.backbone.to_dict()}
    assert {**defaults, **ours["backbone"]} == wanted
    assert ours["panoptic_head"]["in_channels"] == theirs.panoptic_head.in_channels


@pytest.fixture(scope="module")
def tiny_swin() -> nn.Module:
    """The network of Swin-T with random weights."""
    network: nn.Module = build_network(parts_of("swin_t"), 8)
    return network.eval()


def test_swin_t__every_weight_has_the_rate_and_decay_of_mmdets(tiny_swin: nn.Module) -> None:
    from mmengine.optim import build_optim_wrapper

    theirs = Config.fromfile(MMDETS / SWINS["swin_t"]).optim_wrapper.paramwise_cfg
    ours = parts_of("swin_t")["optim_wrapper"]

    def groups(paramwise: Any) -> dict[int, tuple[float, float]]:
        settings = optim_wrapper({**ours, "paramwise_cfg": paramwise}, "fp32")
        wrapper = build_optim_wrapper(tiny_swin, settings)
        return {
            id(weight): (group["lr"], group["weight_decay"])
            for group in wrapper.param_groups
            for weight in group["params"]
        }

    found, wanted = groups(ours["paramwise_cfg"]), groups(theirs.to_dict())
    for name, weight in tiny_swin.named_parameters():
        assert found[id(weight)] == wanted[id(weight)], name
        spared = "norm" in name or "relative_position_bias_table" in name
        if name.startswith("backbone.") and spared:
            assert found[id(weight)] == (pytest.approx(1e-5), 0.0), name


def test_swin_t__gives_classes_and_masks_of_all_queries(tiny_swin: nn.Module) -> None:
    from mmdet.structures import DetDataSample

    shape = {"batch_input_shape": (64, 96), "img_shape": (64, 96)}
    with torch.no_grad():
        features = tiny_swin.extract_feat(torch.randn(1, 3, 64, 96))
        classes, masks = tiny_swin.panoptic_head(features, [DetDataSample(metainfo=shape)])
    assert len(classes) == len(masks) == 10
    assert classes[-1].shape == (1, 100, 9)
    assert masks[-1].shape == (1, 100, 16, 24)
    assert masks[-1].isfinite().all()
