"""Which weights of a training are kept (`keep`), and when it ends early (`patience`)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from s4m_pipeline.experiment.best import best_weights
from s4m_pipeline.models.checkpoint import read_weights
from s4m_pipeline.train.metrics import MaskAPMetric
from s4m_pipeline.train.selection import validations_without_gain
from s4m_stages.pretrain_teacher import pretrain_teacher

EVERY_ITERATION = ["teacher.validate_every=1", "teacher.checkpoint_every=1", "teacher.keep_checkpoints=6"]
Train = Callable[..., Path]


@pytest.fixture
def train(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains 6 iterations, each validated with a given AP; returns the stage's folder."""

    def run(aps: list[float], *overrides: str) -> Path:
        given = iter(aps)
        monkeypatch.setattr(MaskAPMetric, "compute_metrics", lambda *_: {"AP": next(given), "AP50": 50.0})
        pretrain_teacher(tiny_config, [*EVERY_ITERATION, *overrides], tmp_path)
        return tmp_path / "teacher"

    return run


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())["result"]


def assert_weights_of(folder: Path, iteration: int) -> None:
    """The final weights are those of a checkpoint (its EMA), and of no other one."""
    final = read_weights(folder / "weights.safetensors").tensors
    for step in {1, iteration, *range(iteration - 1, iteration + 2)}:
        path = folder / f"iter_{step}.pth"
        if path.is_file():
            saved = read_weights(path).tensors
            same = all(torch.equal(tensor, saved[name]) for name, tensor in final.items())
            assert same == (step == iteration), path


def test_keep__best__is_the_first_validation_with_the_highest_ap(train: Train) -> None:
    folder = train([1.0, 5.0, 3.0, 5.0, 4.0, 0.0], "teacher.keep=best")
    assert_weights_of(folder, 2)
    assert (result(folder)["step"], result(folder)["AP"]) == (2, 5.0)
    assert "5.0" in best_weights(folder.parent)[1]


def test_keep__last__is_the_last_iteration(train: Train) -> None:
    folder = train([1.0, 5.0, 3.0, 5.0, 4.0, 0.5])
    assert_weights_of(folder, 6)
    assert (result(folder)["step"], result(folder)["AP"]) == (6, 0.5)
    assert {path.name for path in folder.glob("*.safetensors")} == {"weights.safetensors"}


def test_patience__ends_the_training_and_a_repeated_command_does_not_train_on(train: Train) -> None:
    aps = [1.0, 5.0, 3.0, 5.0]
    folder = train(aps, "teacher.keep=best", "teacher.patience=2")
    assert_weights_of(folder, 2)
    assert not (folder / "iter_5.pth").exists()
    before = result(folder)
    # Killed after the last checkpoint was written.
    (folder / "weights.safetensors").unlink()
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "running"}))
    train([], "teacher.keep=best", "teacher.patience=2")
    assert_weights_of(folder, 2)
    assert not (folder / "iter_5.pth").exists()
    assert {**result(folder), "seconds": 0} == {**before, "seconds": 0}


@pytest.mark.parametrize(
    ("aps", "expected"),
    [([], 0), ([1], 0), ([1, 2], 0), ([2, 1, 2], 2), ([0, 0, 0], 2), ([3, 1, 4, 1], 1)],
)
def test_validations_without_gain__counts_since_the_highest_ap(
    aps: list[float], expected: int, tmp_path: Path
) -> None:
    lines = [{"step": 9, "loss": 1.0}] + [{"step": step, "val_AP": ap} for step, ap in enumerate(aps, 10)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert validations_without_gain(tmp_path) == expected
