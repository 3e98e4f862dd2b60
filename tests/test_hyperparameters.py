"""Every hyper-parameter of the paper, looked up where it takes effect: in what the configs build."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from s4m_pipeline.data.splits import choose_percent
from s4m_pipeline.engine import parts as build
from s4m_pipeline.engine.launch import share_of_batch
from s4m_pipeline.losses.structural import HUBER_DELTA
from s4m_pipeline.options.experiment import Options, load_experiment
from s4m_pipeline.registry import register_all
from s4m_pipeline.reproduction.benchmarks import CITYSCAPES, COCO

BENCHMARKS = {"cityscapes": CITYSCAPES, "coco": COCO}
NUM_CLASSES = {"cityscapes": 8, "coco": 80}
NUM_IMAGES = {"cityscapes": 2_975, "coco": 118_287}
UNDECAYED_EMBEDDINGS = ("query_embed", "query_feat", "level_embed")
DECAYED_LEVELS = "panoptic_head.pixel_decoder.level_encoding.weight"  # as in Mask2Former's own code


@dataclass(frozen=True)
class Built:
    """An experiment of the paper with what its config builds."""

    name: str
    options: Options
    parts: dict[str, Any] = field(repr=False)
    network: nn.Module = field(repr=False)
    """On the meta device."""


@pytest.fixture(scope="module", params=BENCHMARKS)
def built(request: pytest.FixtureRequest) -> Built:
    """The experiment with 10 % of labels; those with other shares differ in their split alone."""
    register_all()

    from mmdet.registry import MODELS

    name = request.param
    options, parts = load_experiment(BENCHMARKS[name].config(10, smoke=False), [])
    with torch.device("meta"):
        network = MODELS.build(build.model_config(parts["model"], NUM_CLASSES[name]))
    return Built(name, options, parts, network)


BOTH = {
    "teacher.precision": "bf16",
    "teacher.init_from": "torchvision://resnet50",
    "teacher.ema": None,
    "sd.enabled": True,
    "sd.weight": 1.0,
    "sd.points": 128,
    "sd.target": "decoder",
    "sd.loss": "structural",
    "refine.min_score": 0.7,
    "refine.min_soft_area": 5.0,
    "refine.prompt": "points",
    "refine.points": 3,
    "refine.nms_iou": None,
    "student.precision": "bf16",
    "student.init_from": "torchvision://resnet50",
    "student.unlabeled_weight": 2.0,
    "student.unlabeled_background": 0.1,
    "student.source": "cache",
    "student.ema": 0.9996,
    "student.gate": "warn",
    "student.arp.fraction": 1.0,
    "student.arp.min_area_px": 0,
    "student.photometric.jitter": (0.4, 0.4, 0.4, 0.1),
    "student.photometric.jitter_p": 0.8,
    "student.photometric.grey_p": 0.2,
    "student.photometric.blur_sigma_px": (0.1, 2.0),
    "student.photometric.blur_p": 0.5,
}
SETTINGS: dict[str, dict[str, object]] = {
    "cityscapes": {
        **BOTH,
        "teacher.iterations": 90_000,
        "teacher.batch_size": 4,
        "student.iterations": 90_000,
        "student.batch_size": 16,
        "student.unlabeled_batch_size": 16,
        "student.burn_in": 15_000,
        "student.refresh_every": 5_000,
        "student.arp.placement": "same",
        "student.arp.scale_range": (1.0, 1.0),
    },
    "coco": {
        **BOTH,
        "teacher.iterations": 368_750,
        "teacher.batch_size": 16,
        "student.iterations": 368_750,
        "student.batch_size": 12,
        "student.unlabeled_batch_size": 12,
        "student.burn_in": 25_000,
        "student.refresh_every": 25_000,
        "student.arp.placement": "random",
        "student.arp.scale_range": (0.8, 1.2),
    },
}


@pytest.mark.parametrize("setting", SETTINGS["coco"])
def test_setting__is_the_papers(setting: str, built: Built) -> None:
    assert attrgetter(setting)(built.options) == SETTINGS[built.name][setting]


def test_sam__is_the_large_one_and_distances_are_huber_of_delta_1(built: Built) -> None:
    assert "hiera-large" in built.options.sam.model
    assert HUBER_DELTA == 1.0


@pytest.mark.parametrize("name", BENCHMARKS)
def test_configs__of_all_percents__differ_in_their_split_alone(name: str) -> None:
    benchmark = BENCHMARKS[name]
    loaded = {
        percent: load_experiment(benchmark.config(percent, smoke=False), []) for percent in benchmark.paper
    }
    for percent, (options, parts) in loaded.items():
        folder = f"splits/{percent:02d}"
        assert (options.data.labeled, options.data.unlabeled) == (
            f"{folder}/labeled.json",
            f"{folder}/unlabeled.json",
        )
        assert options.data.train_images == benchmark.train_images
        assert (options.data.val, options.data.val_images) == (benchmark.val_json, benchmark.val_images)
        assert {**parts, "data": None} == {**loaded[10][1], "data": None}


@pytest.mark.parametrize(
    ("name", "labelled"),
    [
        ("cityscapes", {5: 149, 10: 298, 20: 595, 30: 893}),
        ("coco", {1: 1_183, 2: 2_366, 5: 5_914, 10: 11_829}),
    ],
)
def test_splits__label_the_papers_shares(name: str, labelled: dict[int, int]) -> None:
    names = [str(number) for number in range(NUM_IMAGES[name])]
    assert {percent: len(choose_percent(names, percent, 0)) for percent in BENCHMARKS[name].paper} == labelled


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("num_queries", 100),
        ("num_transformer_decoder_layers", 9),
        ("transformer_decoder.return_intermediate", True),
        ("loss_cls.loss_weight", 2.0),
        ("loss_mask.loss_weight", 5.0),
        ("loss_dice.loss_weight", 5.0),
        ("num_points", 12_544),
        ("oversample_ratio", 3.0),
        ("importance_sample_ratio", 0.75),
    ],
)
def test_network__has_the_papers_head(part: str, expected: object, built: Built) -> None:
    assert attrgetter(part)(built.network.panoptic_head) == expected


def test_network__weighs_classes_by_1_and_no_object_by_a_tenth(built: Built) -> None:
    classes = NUM_CLASSES[built.name]
    assert built.network.panoptic_head.loss_cls.class_weight == [1.0] * classes + [0.1]


def test_network__matches_queries_by_the_weights_of_its_losses(built: Built) -> None:
    costs = built.network.panoptic_head.assigner.match_costs
    weights = {type(cost).__name__: cost.weight for cost in costs}
    assert weights == {"ClassificationCost": 2.0, "CrossEntropyLossCost": 5.0, "DiceCost": 5.0}


def test_network__is_a_resnet_50_with_frozen_statistics(built: Built) -> None:
    backbone = built.network.backbone
    assert backbone.depth == 50
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.weight.requires_grad for norm in norms)
    assert not any(norm.training for norm in built.network.train().backbone.modules() if norm in norms)


def test_optimizer__every_weight_has_the_papers_rate_and_decay(built: Built) -> None:
    from mmengine.optim import build_optim_wrapper

    wrapper = build_optim_wrapper(built.network, build.optim_wrapper(built.parts["optim_wrapper"], "fp32"))
    assert type(wrapper.optimizer) is torch.optim.AdamW
    found = {id(group["params"][0]): group for group in wrapper.param_groups}
    expected = {id(weight): (name, decay) for name, weight, decay in _weights_and_decays(built.network)}
    assert expected.keys() <= found.keys()
    for key, (name, decay) in expected.items():
        rate = 1e-5 if name.startswith("backbone.") else 1e-4
        group = found[key]
        assert (group["lr"], group["weight_decay"]) == (pytest.approx(rate), decay), name


def _weights_and_decays(network: nn.Module) -> Iterator[tuple[str, nn.Parameter, float]]:
    """Weights that learn, with the paper's decay: 0 for those of norms and embeddings, else 0.05."""
    norms = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)
    undecayed = 0
    for prefix, module in network.named_modules():
        for leaf, weight in module.named_parameters(recurse=False):
            name = f"{prefix}.{leaf}"
            spared = isinstance(module, (*norms, nn.Embedding)) and name != DECAYED_LEVELS
            if isinstance(module, nn.Embedding) and spared:
                assert name.split(".")[-2] in UNDECAYED_EMBEDDINGS
            undecayed += spared
            if weight.requires_grad:
                yield name, weight, 0.0 if spared else 0.05
    assert undecayed > 50


def test_gradients__are_clipped_together_to_a_norm_of_a_hundredth(built: Built) -> None:
    from mmengine.optim import build_optim_wrapper

    settings = {**built.parts["optim_wrapper"], "paramwise_cfg": None}
    network = nn.Linear(3, 2)
    wrapper = build_optim_wrapper(network, build.optim_wrapper(settings, "fp32"))
    network.weight.grad, network.bias.grad = torch.full((2, 3), 7.0), torch.full((2,), -3.0)
    wrapper._clip_grad()
    clipped = torch.cat([network.weight.grad.flatten(), network.bias.grad])
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-4)
    assert clipped[0] / clipped[-1] == pytest.approx(-7 / 3)


# mmengine's polynomial falls from the first step to the last: 89,999 intervals.
RATES = {
    "cityscapes": {step: 1e-4 * (1 - step / 89_999) ** 0.9 for step in (0, 1, 45_000, 89_998, 89_999)},
    "coco": {0: 1e-4, 327_777: 1e-4, 327_778: 1e-5, 355_091: 1e-5, 355_092: 1e-6, 368_749: 1e-6},
}


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_learning_rate__at_given_steps_is_the_papers(stage: str, built: Built) -> None:
    from mmengine.registry import PARAM_SCHEDULERS

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-4)
    iterations = getattr(built.options, stage).iterations
    (config,) = build.schedulers(built.parts["param_scheduler"], iterations) or []
    schedule = PARAM_SCHEDULERS.build(config, default_args={"optimizer": optimizer})
    expected = RATES[built.name]
    found = {}
    for step in range(iterations):
        if step in expected:
            found[step] = optimizer.param_groups[0]["lr"]
        schedule.step()
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("ranks", [1, 4])
def test_student__every_batch_holds_the_papers_shares(ranks: int, built: Built, tiny_coco: Any) -> None:
    from mmengine.runner import Runner

    student = built.options.student
    assert student is not None
    shares = tuple(
        share_of_batch("", size, ranks) for size in (student.batch_size, student.unlabeled_batch_size)
    )
    images = build.coco_dataset(tiny_coco.annotations("train"), tiny_coco.images("train"), [])
    loader = Runner.build_dataloader(
        build.two_branch_dataloader(images, images, batch_sizes=shares, workers=0, seed=0)
    )
    batches = iter(loader.batch_sampler)
    wanted = {"cityscapes": 16, "coco": 12}[built.name] // ranks
    for _ in range(3):
        branches = [draw.branch for draw in next(batches)]
        assert branches == ["labeled"] * wanted + ["unlabeled"] * wanted


def test_average__begins_at_the_end_of_the_burn_in_and_keeps_9996_of_10000(built: Built) -> None:
    from mmengine.model import ExponentialMovingAverage
    from mmengine.registry import HOOKS

    student = built.options.student
    assert student is not None
    (config,) = build.ema_hooks(student.ema, student.burn_in)
    hook = HOOKS.build(config)
    assert hook.begin_iter == {"cityscapes": 15_000, "coco": 25_000}[built.name]
    network = nn.Linear(1, 1, bias=False)
    average = ExponentialMovingAverage(network, momentum=hook.ema_cfg["momentum"])
    average.update_parameters(network)  # the first update copies
    before = network.weight.item()
    network.weight.data += 1
    average.update_parameters(network)
    assert average.module.weight.item() - before == pytest.approx(0.0004, rel=1e-2)


def _transform(built: Built, pipeline: str, kind: str) -> Any:
    from mmdet.registry import TRANSFORMS

    (config,) = (step for step in built.parts[pipeline] if step["type"] == kind)
    return TRANSFORMS.build(config)


def _blank(height: int, width: int) -> dict[str, Any]:
    return {
        "img": np.zeros((height, width, 3), np.uint8),
        "img_shape": (height, width),
        "ori_shape": (height, width),
    }


def test_geometry__of_cityscapes__draws_the_papers_shortest_sides_and_crops(built: Built) -> None:
    if built.name != "cityscapes":
        pytest.skip("COCO has another geometry")
    resize, crop = (
        _transform(built, "train_pipeline", "RandomChoiceResize"),
        _transform(built, "train_pipeline", "RandomCrop"),
    )
    papers = [int(512 * share / 5) for share in range(5, 21)]
    assert papers[:2] == [512, 614] and papers[-1] == 2048
    assert [min(scale) for scale in resize.scales] == papers
    for _ in range(4):
        height, width = resize(_blank(1024, 2048))["img_shape"][:2]
        assert height in papers and abs(width - 2 * height) <= 2
    for side in (512, 2048):
        assert crop(_blank(side, 2 * side))["img"].shape == (512, 1024, 3)


def test_geometry__of_coco__jitters_scales_from_a_tenth_to_two(built: Built) -> None:
    if built.name != "coco":
        pytest.skip("Cityscapes has another geometry")
    from mmdet.registry import MODELS

    resize = _transform(built, "train_pipeline", "RandomResize")
    sides = [max(resize(_blank(6, 64))["img_shape"][:2]) for _ in range(100)]
    assert 102 <= min(sides) < 300 and 1800 < max(sides) <= 2048
    crop = _transform(built, "train_pipeline", "RandomCrop")
    assert crop(_blank(1500, 2000))["img"].shape == (1024, 1024, 3)
    assert crop(_blank(80, 102))["img"].shape == (80, 102, 3)

    preprocessor = MODELS.build(built.parts["model"]["data_preprocessor"])
    batch = {"inputs": [torch.zeros(3, 80, 102, dtype=torch.uint8)], "data_samples": [_sample(80, 102)]}
    assert preprocessor(batch, training=True)["inputs"].shape == (1, 3, 1024, 1024)


def _sample(height: int, width: int) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    masks = BitmapMasks(np.zeros((0, height, width), np.uint8), height, width)
    sample = DetDataSample(metainfo={"img_shape": (height, width)})
    sample.gt_instances = InstanceData(masks=masks, labels=torch.zeros(0, dtype=torch.int64))
    return sample


def test_geometry__flips_half_of_the_images(built: Built) -> None:
    assert _transform(built, "train_pipeline", "RandomFlip").prob == 0.5


SIZES = {
    "cityscapes": {(1024, 2048): (1024, 2048)},
    "coco": {(480, 640): (800, 1067), (640, 480): (1067, 800), (400, 1000): (533, 1333)},
}


def test_size__in_tests_is_the_papers(built: Built) -> None:
    resize = _transform(built, "test_pipeline", "Resize")
    found = {size: resize(_blank(*size))["img_shape"][:2] for size in SIZES[built.name]}
    assert found == SIZES[built.name]


def test_paths__of_the_benchmarks__are_those_of_the_configs(built: Built) -> None:
    assert Path(built.options.data.root).name == built.name
