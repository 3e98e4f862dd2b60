"""`s4m refine --follow` beside a training, which is a folder of checkpoints here."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from s4m_cache.generation import Generation
from s4m_cache.generations import current_number, generations
from s4m_cache.sharding import ShardSpec
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.experiment.run_record import TrainingState
from s4m_pipeline.models.checkpoint import read_weights
from s4m_pipeline.refine import follow as following
from s4m_pipeline.refine.follow import TEACHERS, follow
from s4m_pipeline.refine.generation import begin_generation, label_shards
from s4m_pipeline.refine.inputs import RefineInputs
from test_refine.conftest import (
    assert_same_labels,
    inputs_of,
    labels_of,
    make_generation,
    never,
    write_untrained_teacher,
)

REPOSITORY = Path(__file__).parents[2]
SETTINGS = ("refine.prompt=none", "refine.batch_size=1", "cache.part_images=1", "student.gate=off")
"""Labels by untrained networks are noise, which the gate would refuse."""
ALL = ShardSpec(1, 1)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say in which states the training is, one after the other; the last one lasts."""

    def set_states(*states: TrainingState) -> None:
        left = list(states)
        monkeypatch.setattr(
            following, "training_state", lambda folder: left.pop(0) if len(left) > 1 else left[0]
        )

    return set_states


@pytest.fixture
def inputs(student_config: Path, experiment: Path) -> RefineInputs:
    return inputs_of(student_config, experiment, *SETTINGS)


@pytest.fixture
def work_dir(inputs: RefineInputs, tmp_path: Path) -> Path:
    """An experiment whose first labels are published and whose training has just begun."""
    make_generation(inputs, tmp_path / "cache", 1)
    (tmp_path / "student").mkdir()
    (tmp_path / "student/run.json").write_text('{"status": "running"}')
    return tmp_path


def save_checkpoint(experiment: Path, work_dir: Path, step: int) -> Path:
    """What training writes at a step; the weights are the step's own. Returns them alone."""
    weights = work_dir / f"weights-{step}.safetensors"
    write_untrained_teacher(experiment / "refine_me.py", weights, seed=step)
    path = work_dir / f"student/iter_{step}.pth"
    torch.save({"state_dict": read_weights(weights).tensors, "meta": {}}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)
    return weights


def wait_until(condition: Callable[[], bool], *processes: subprocess.Popen) -> None:
    while not condition():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


def test_follow__two_processes_one_stopped_and_started_again__label_with_each_newest_checkpoint(
    student_config, experiment, inputs, work_dir
):
    def start(shard: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "s4m_stages", "refine", str(student_config), "--follow"]
        command += ["--work-dir", str(work_dir), "--teacher", str(experiment / "weights.safetensors")]
        command += ["--shard", shard, *(word for pair in SETTINGS for word in ("--set", pair))]
        return subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"})

    root = work_dir / "cache"
    save_checkpoint(experiment, work_dir, 2)  # before the end of the burn-in
    expected = {2: save_checkpoint(experiment, work_dir, 4)}
    first, second = start("1/2"), start("2/2")
    wait_until(lambda: current_number(root) == 2, first, second)
    second.send_signal(signal.SIGTERM)
    assert second.wait(300) == 143
    expected[3] = save_checkpoint(experiment, work_dir, 6)
    half = Generation(root, 3)
    wait_until(lambda: half.path.exists() and half.stored_ids().size == 3, first)
    (work_dir / "student/iter_6.pth").unlink()
    (work_dir / "student/run.json").write_text(json.dumps({"status": "finished"}))
    second = start("2/2")
    assert (first.wait(300), second.wait(300)) == (0, 0)
    assert [generation.number for generation in generations(root)] == [1, 2, 3]
    for number, weights in expected.items():
        make_generation(inputs.with_weights(weights), work_dir / f"alone-{number}", number)
        assert_same_labels(root, work_dir / f"alone-{number}", number)
    assert [path.name for path in (root / TEACHERS).glob("*.safetensors")] == ["gen-0003.safetensors"]


def test_follow__checkpoint_deleted_while_its_labels_are_made__continues_with_the_copy(
    experiment, inputs, work_dir, training
):
    save_checkpoint(experiment, work_dir, 4)
    root, folder = work_dir / "cache", work_dir / "student"
    answers = iter([False] * 4)
    training("running")
    assert not follow(inputs, root, folder, ALL, stop=lambda: next(answers, True))
    assert 0 < Generation(root, 2).stored_ids().size < 6
    (folder / "iter_4.pth").unlink()
    training("ended")
    assert follow(inputs, root, folder, ALL, stop=never)
    assert current_number(root) == 2


def test_follow__training_ended_and_nothing_new__ends_at_once(experiment, inputs, work_dir, training):
    save_checkpoint(experiment, work_dir, 2)
    training("ended")
    assert follow(inputs, work_dir / "cache", work_dir / "student", ALL, stop=never)
    assert current_number(work_dir / "cache") == 1


def test_follow__training_that_is_gone__is_missed_once_each_time(
    experiment, inputs, work_dir, training, monkeypatch, capsys
):
    monkeypatch.setattr(following, "POLL_S", 0.0)
    training("absent", "absent", "running", "running", "absent", "absent", "ended")
    assert follow(inputs, work_dir / "cache", work_dir / "student", ALL, stop=never)
    said = capsys.readouterr().err
    assert said.count(f"No training runs in {work_dir / 'student'}") == 2
    assert "s4m train-student CONFIG (same --work-dir and --set)" in said


def test_follow__generation_that_another_command_left_half_made__is_named_once_and_waited_for(
    experiment, inputs, work_dir, monkeypatch, capsys
):
    monkeypatch.setattr(following, "POLL_S", 0.0)
    root = work_dir / "cache"
    generation, answers = begin_generation(inputs, root, 2, 1), iter([False] * 4)
    assert not label_shards(inputs, generation, ALL, stop=lambda: next(answers, True))
    save_checkpoint(experiment, work_dir, 4)
    polls = iter(range(5))

    def state(folder: Path) -> TrainingState:
        match next(polls):
            case 3:
                make_generation(inputs, root, 2)
            case 4:
                return "ended"
        return "running"

    monkeypatch.setattr(following, "training_state", state)
    assert follow(inputs, root, work_dir / "student", ALL, stop=never)
    said = capsys.readouterr().err
    assert said.count("Waiting for gen-0002") == 1
    assert "s4m refine CONFIG -g 2 (same --work-dir, --set and --teacher" in said
    assert current_number(root) == 3


def test_follow__checkpoint_gone_before_it_was_read__takes_the_next(
    experiment, inputs, work_dir, training, monkeypatch
):
    save_checkpoint(experiment, work_dir, 4)
    gone = iter([work_dir / "student/iter_5.pth"])
    latest = following.latest_checkpoint
    monkeypatch.setattr(following, "latest_checkpoint", lambda folder: next(gone, latest(folder)))
    training("running", "ended")
    assert follow(inputs, work_dir / "cache", work_dir / "student", ALL, stop=never)
    assert len(labels_of(work_dir / "cache", 2)) == 6


def test_follow__rejected_generation__is_left_behind_for_the_next_checkpoint(
    student_config, experiment, work_dir, training, monkeypatch
):
    inputs = inputs_of(student_config, experiment, *SETTINGS)
    root, folder = work_dir / "cache", work_dir / "student"
    decisions = iter(["rejected", "taken"])
    monkeypatch.setattr("s4m_pipeline.refine.gate.decide", lambda *_: next(decisions))
    training("ended")
    save_checkpoint(experiment, work_dir, 4)
    assert follow(inputs, root, folder, ALL, stop=never)
    assert current_number(root) == 1
    save_checkpoint(experiment, work_dir, 6)
    assert follow(inputs, root, folder, ALL, stop=never)
    assert current_number(root) == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.refresh_every=2", "student.refresh_every is 2: the training makes new labels itself"),
        ("student.source=labeled", "the training reads no labels"),
    ],
)
def test_follow__training_that_takes_no_labels_from_elsewhere__is_refused(
    student_config, experiment, tmp_path, override, message
):
    inputs = inputs_of(student_config, experiment, *SETTINGS, override)
    with pytest.raises(UserError, match=message):
        follow(inputs, tmp_path, tmp_path, ALL, stop=never)
