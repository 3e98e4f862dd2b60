"""The paper's numbers that are options, and its splits."""

from operator import attrgetter
from pathlib import Path

import pytest

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.data.splits import choose_percent
from s4m_pipeline.models.structural import HUBER_DELTA
from tests.test_hyperparameters.experiments import BENCHMARKS, Built

NUM_IMAGES = {"cityscapes": 2_975, "coco": 118_287}
BOTH = {
    "teacher.precision": "bf16",
    "teacher.init_from": "torchvision://resnet50",
    "teacher.ema": None,
    "teacher.keep": "last",
    "student.keep": "last",
    "teacher.patience": None,
    "student.patience": None,
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
def test_config__reads_the_files_of_the_benchmark_and_the_split_of_10_percent(name: str) -> None:
    benchmark = BENCHMARKS[name]
    data = load_experiment(benchmark.config(), [])[0].data
    folder = benchmark.split_folder(10)
    assert (data.labeled, data.unlabeled) == (f"{folder}/labeled.json", f"{folder}/unlabeled.json")
    assert data.train_images == benchmark.train_images
    assert (data.val, data.val_images) == (benchmark.val_json, benchmark.val_images)


@pytest.mark.parametrize(
    ("name", "labeled"),
    [
        ("cityscapes", {5: 149, 10: 298, 20: 595, 30: 893}),
        ("coco", {1: 1_183, 2: 2_366, 5: 5_914, 10: 11_829}),
    ],
)
def test_splits__label_the_papers_shares(name: str, labeled: dict[int, int]) -> None:
    names = [str(number) for number in range(NUM_IMAGES[name])]
    assert {percent: len(choose_percent(names, percent, 0)) for percent in BENCHMARKS[name].paper} == labeled


def test_paths__of_the_benchmarks__are_those_of_the_configs(built: Built) -> None:
    assert Path(built.options.data.root).name == built.name
