"""An experiment ready for the student: a few scenes, a network with random weights, its cached labels."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.data.labeled import load_labeled
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES
from s4m_pipeline.data.scenes.writer import Subset, write_scenes
from s4m_pipeline.student.labels import load_labels
from tests.conftest import REPOSITORY
from tests.test_refine.conftest import write_untrained_teacher

TrainStudent = Callable[..., Path]


@pytest.fixture(scope="session")
def student_experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, `study.py` and `work/{teacher,cache}`; tests must not write into it."""
    from s4m_stages.refine import refine

    root = tmp_path_factory.mktemp("student")
    subsets = (Subset("labeled", 0, 3), Subset("val", 1, 2), Subset("train", 2, 6))
    write_scenes(root / "data", subsets, DEMO_FAMILIES, (4, 99))
    shutil.copytree(root / "data/labeled", root / "data/train", dirs_exist_ok=True)
    config = root / "study.py"
    config.write_text(
        f"""
_base_ = [{str(REPOSITORY / "configs/demo/demo.py")!r}]
data = dict(
    _delete_=True, root={str(root / "data")!r}, labeled="labeled.json", train_images="train",
    unlabeled="train.json", val="val.json", val_images="val",
)
sam = dict(model="nano")
refine = dict(min_score=0.25, min_soft_area=5.0, nms_iou=0.5, batch_size=3, workers=0, ground_truth=None)
cache = dict(part_images=2, embeddings=False)
optim_wrapper = dict(optimizer=dict(lr=1e-5))
train_pipeline = [
    dict(type="LoadRGB"),
    dict(type="LoadInstances"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
student = dict(
    _delete_=True, iterations=6, batch_size=2, unlabeled_batch_size=2, workers=0, ema=0.5, burn_in=2,
    refresh_every=2, gate="off", validate_every=6, checkpoint_every=3, log_every=2, deterministic=True,
)
"""
    )
    (root / "work/teacher").mkdir(parents=True)
    write_untrained_teacher(config, root / "work/teacher/weights.safetensors", seed=0)
    refine(config, work_dir=root / "work")
    return root


@pytest.fixture
def train_student(student_experiment: Path, tmp_path: Path) -> TrainStudent:
    """`s4m train-student` in this process: `train_student("name", "key=value")` returns its work folder."""
    from s4m_stages.train_student import train_student as command

    def run(name: str, *overrides: str, **switches: Any) -> Path:
        command(
            student_experiment / "study.py",
            list(overrides),
            prepare(student_experiment, tmp_path / name),
            **switches,
        )
        return tmp_path / name

    return run


def prepare(experiment: Path, work: Path) -> Path:
    """A work folder with teacher and cache, if it is not there yet."""
    if not work.exists():
        shutil.copytree(experiment / "work", work)
    return work


@pytest.fixture(scope="session")
def inputs(student_experiment: Path) -> tuple[Any, ...]:
    """Student, config, labeled images and labels, as a training of `student_experiment` has them."""
    options, config = load_experiment(student_experiment / "study.py", [])
    train, _ = load_labeled(options.data)
    labels = load_labels(options.data, student_experiment / "work/cache", None, train)
    return options.require_student(), config, train, labels
