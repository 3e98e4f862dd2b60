"""The paper's two data sets with its figures (ResNet-50), and where their files are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s4m_pipeline.config.methods import MethodName
from s4m_pipeline.core.paths import CONFIGS

Name = Literal["cityscapes", "coco"]


@dataclass(frozen=True, kw_only=True)
class PaperFigures:
    """Mask AP in percent for one share of labels."""

    supervised_teacher: float
    """Trained on the labels alone."""
    teacher: float
    """With structural distillation."""
    student: float
    """With all of the method."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A data set as its publisher gives it, and what the paper reports on it.

    Paths are relative to its root.
    """

    name: Name
    title: str
    metric: str
    """Which AP the paper's figures are."""
    train_json: str
    train_images: str
    val_json: str
    val_images: str
    paper: dict[int, PaperFigures]
    """By percent of the training images that are labeled."""
    others: dict[MethodName, dict[int, float]]
    """AP of the students of other methods, as the paper reports it."""

    def split_folder(self, percent: int) -> str:
        """Where the split of a percentage is; the config names that of 10 %."""
        return f"splits/{percent:02d}"

    def config(self, *, smoke: bool = False) -> Path:
        """The experiment's config."""
        return CONFIGS / self.name / f"{self.name}{'_smoke' if smoke else ''}.py"


def _figures(supervised_teacher: float, teacher: float, student: float) -> PaperFigures:
    return PaperFigures(supervised_teacher=supervised_teacher, teacher=teacher, student=student)


CITYSCAPES = Benchmark(
    name="cityscapes",
    title="Cityscapes",
    metric="Cityscapes AP",
    train_json="annotations/train.json",
    train_images="leftImg8bit/train",
    val_json="annotations/val.json",
    val_images="leftImg8bit/val",
    paper={
        5: _figures(14.9, 17.2, 30.1),
        10: _figures(19.0, 22.5, 33.3),
        20: _figures(27.6, 29.6, 37.3),
        30: _figures(29.9, 32.0, 37.8),
    },
    others={
        "data_distillation": {5: 13.7, 10: 19.2, 20: 24.6, 30: 27.4},
        "noisy_boundaries": {5: 17.1, 10: 22.1, 20: 29.0, 30: 32.4},
        "pais": {5: 18.0, 10: 22.9, 20: 29.2, 30: 32.8},
        "guided_distillation": {5: 23.0, 10: 30.8, 20: 33.1, 30: 35.6},
        "depth_guided": {5: 23.2, 10: 30.9, 20: 34.1, 30: 36.7},
    },
)
COCO = Benchmark(
    name="coco",
    title="COCO",
    metric="COCO AP",
    train_json="annotations/instances_train2017.json",
    train_images="train2017",
    val_json="annotations/instances_val2017.json",
    val_images="val2017",
    paper={
        1: _figures(13.5, 15.1, 24.2),
        2: _figures(19.5, 20.3, 28.1),
        5: _figures(25.8, 26.1, 32.1),
        10: _figures(30.1, 30.3, 34.6),
    },
    others={
        "data_distillation": {1: 3.8, 2: 11.8, 5: 20.4, 10: 24.2},
        "noisy_boundaries": {1: 7.7, 2: 16.3, 5: 24.9, 10: 29.2},
        "pais": {1: 21.1, 5: 29.3, 10: 31.0},
        "guided_distillation": {1: 21.5, 2: 25.3, 5: 29.9, 10: 35.0},
        "depth_guided": {1: 22.3, 2: 26.3, 5: 31.5, 10: 35.1},
    },
)
