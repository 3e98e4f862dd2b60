"""Every shipped config can be read, built and fed."""

import runpy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.config.methods import MethodName, read_method
from s4m_pipeline.data.loaders import coco_dataset, eval_dataloader, train_dataloader
from s4m_pipeline.models.load import build_network
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.train.runner import optim_wrapper, schedulers

CONFIGS = Path(__file__).parent.parent / "configs"
EXPERIMENTS = sorted(path for path in CONFIGS.glob("*/*.py") if path.parent.name not in ("_base_", "rivals"))


@pytest.fixture(params=EXPERIMENTS, ids=lambda path: path.stem)
def experiment(request: pytest.FixtureRequest, tiny_coco: Any) -> tuple[Path, Any, dict[str, Any]]:
    """A config on the tiny data set."""
    register_all()
    here = [
        f"data.root={tiny_coco.root}",
        "data.labeled=train.json",
        "data.train_images=train",
        "data.val=val.json",
        "data.val_images=val",
    ]
    return request.param, *load_experiment(request.param, here)


def test_config__names_are_unique() -> None:
    names = [path.stem for path in EXPERIMENTS]
    assert len(names) == len(set(names)) > 0


def test_config__header_says_command_time_and_expected_ap(experiment: tuple) -> None:
    header = experiment[0].read_text().split('"""')[1]
    assert any(command in header for command in ("s4m pretrain-teacher", "s4m run", "s4m ablation"))
    for expected in ("Time and memory:", "Expected AP:"):
        assert expected in header


def test_config__model_optimizer_and_schedule_are_built(experiment: tuple) -> None:
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import PARAM_SCHEDULERS

    _, options, config = experiment
    is_swin = (
        config["model"]["backbone"]["type"] == "SwinTransformer"
    )  # its constructor reads values of tensors
    with torch.device("cpu" if is_swin else "meta"):
        model = build_network(config, 2)
    assert model.panoptic_head.cls_embed.out_features == 3
    assert model.panoptic_fusion_head.num_classes == 2
    wrapper = build_optim_wrapper(model, optim_wrapper(config["optim_wrapper"], "fp32"))
    rates = {group["lr"] for group in wrapper.param_groups}
    assert max(rates) == config["optim_wrapper"]["optimizer"]["lr"]
    for schedule in schedulers(config.get("param_scheduler", []), options.teacher.iterations) or []:
        built = PARAM_SCHEDULERS.build(schedule, default_args={"optimizer": wrapper})
        assert built.end == options.teacher.iterations


def test_config__loaders_give_batches(experiment: tuple) -> None:
    from mmengine.runner import Runner

    _, options, config = experiment
    data = options.data
    train_set = coco_dataset(data.path(data.labeled), data.path(data.train_images), config["train_pipeline"])
    loader = Runner.build_dataloader(train_dataloader(train_set, batch_size=2, workers=0, seed=0))
    batch = next(iter(loader))
    distorted = any(step["type"] == "PhotoMetricDistortion" for step in config["train_pipeline"])
    dtype = torch.float32 if distorted else torch.uint8
    assert [image.dtype for image in batch["inputs"]] == [dtype] * 2
    for image, sample in zip(batch["inputs"], batch["data_samples"], strict=True):
        instances = sample.gt_instances
        assert instances.masks.masks.shape == (len(instances.labels), *image.shape[1:])

    val_set = coco_dataset(*data.split("val"), config["test_pipeline"])
    loader = Runner.build_dataloader(eval_dataloader(val_set, workers=0))
    assert [batch["data_samples"][0].img_id for batch in loader] == [1, 2, 3]


@pytest.mark.parametrize("name", get_args(MethodName))
@pytest.mark.parametrize("config", ["crowds/crowds.py", "cityscapes/cityscapes.py"])
def test_method__on_top_of_an_experiment__has_the_values_of_its_file_and_changes_nothing_else(name, config):
    wanted = runpy.run_path(str(CONFIGS / f"rivals/{name}.py"))
    wanted = {group: values for group, values in wanted.items() if not group.startswith("_")}
    plain, content = load_experiment(CONFIGS / config, [])
    changed, same = load_experiment(CONFIGS / config, read_method(name).settings)
    assert (same["model"] == content["model"]) == ("data" not in wanted)  # depth changes the network
    merged = plain.model_dump()
    for group, values in wanted.items():
        for key, value in values.items():
            merged[group][key] = {**merged[group][key], **value} if isinstance(value, dict) else value
    assert changed.model_dump() == merged


def test_method__files_are_the_names_that_are_offered():
    assert {path.stem for path in CONFIGS.glob("rivals/*.py")} == set(get_args(MethodName))
