"""The student on two devices: both ranks label, rank 0 publishes, both go on with the same labels."""

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from s4m_cache.generation import Generation
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.train import distributed
from s4m_pipeline.train.launch import student_batch_sizes
from s4m_stages.run import run
from s4m_stages.train_student import train_student
from tests.signal_hook import living, signaled_config
from tests.test_distributed import exit_codes, start_two
from tests.test_student.conftest import prepare


def test_train_student__on_two_devices_refreshes_in_shards_and_finishes(
    student_experiment: Path, tmp_path: Path
) -> None:
    work = prepare(student_experiment, tmp_path / "work")
    arguments = [
        "train-student",
        str(student_experiment / "study.py"),
        "--work-dir",
        str(work),
        "--devices",
        "2",
    ]
    settings = ["--set", "student.iterations=4", "--set", "student.unlabeled_batch_size=4"]
    done = subprocess.run(
        [sys.executable, "-m", "s4m_stages", *arguments, *settings],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in (work / "student/generations.jsonl").read_text().splitlines()]
    assert [(entry["step"], entry["generation"]) for entry in entries] == [(0, 1), (2, 2)]
    refreshed = Generation(work / "cache", 2)
    assert refreshed.spec.num_shards == 2
    assert not refreshed.missing()
    steps = [json.loads(line)["step"] for line in (work / "student/metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 4]  # rank 0 alone writes, and validates once
    assert json.loads((work / "student/run.json").read_text())["status"] == "finished"


def test_train_student__sigterm_to_both_ranks__saves_and_the_repeated_command_resumes(
    student_experiment: Path, tmp_path: Path, one_thread: None
) -> None:
    """After a refresh, whose labels the resumed training uses."""
    config = signaled_config(student_experiment / "study.py", tmp_path, signal.SIGTERM, launcher=False)
    settings = ("student.iterations=5", "student.refresh_every=3", "student.unlabeled_batch_size=4")

    def train(config: Path, name: str) -> list[int | None]:
        work = prepare(student_experiment, tmp_path / name)
        return exit_codes(start_two(train_student, config, settings, work), within_s=500)

    assert train(config, "stopped") == [143, 143]
    folder = tmp_path / "stopped/student"
    assert living(folder) == []
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert train(config, "stopped") == [0, 0]
    assert json.loads((folder / "run.json").read_text())["sessions"][1]["from_step"] == 4
    assert train(student_experiment / "study.py", "undisturbed") == [0, 0]
    stopped, undisturbed = (
        load_file(tmp_path / name / "student/weights.safetensors") for name in ("stopped", "undisturbed")
    )
    assert all(torch.equal(stopped[name], undisturbed[name]) for name in undisturbed)


def test_train_student__distilled__sends_no_tensor_from_rank_to_rank(
    student_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAM's would arrive on rank 0's GPU: every rank loads its own."""

    def asked(function: Callable[[], Any]) -> Any:
        assert b"torch" not in pickle.dumps(function())
        raise UserError("asked")

    monkeypatch.setattr(distributed, "on_first_rank", asked)
    work = prepare(student_experiment, tmp_path / "work")
    with pytest.raises(UserError, match="asked"):
        train_student(student_experiment / "study.py", ["student.distill=true", "sd.enabled=true"], work)


@pytest.mark.parametrize("devices", [1, 2])
def test_train_student__devices_with_one_unlabeled_image__are_refused_before_anything_is_written(
    devices: int, student_experiment: Path, tmp_path: Path
) -> None:
    """ARP has no pair on any of them; without ARP there is nothing to refuse."""
    config = student_experiment / "study.py"
    overrides = [f"student.unlabeled_batch_size={devices}"]
    message = rf"{devices} images on {devices} device\(s\)(.|\n)*at least 2 images on each device"
    with pytest.raises(UserError, match=message):
        train_student(config, overrides, tmp_path / "work", devices=devices)
    with pytest.raises(UserError, match=message):
        run(config, overrides=overrides, work_dir=tmp_path / "work", devices=devices)
    assert not (tmp_path / "work").exists()
    options, _ = load_experiment(config, [*overrides, "student.arp.fraction=0"])
    assert student_batch_sizes(options.require_student(), devices) == (2 // devices, 1)
