"""`s4m run`: the whole chain on a tiny experiment, repeated, interrupted, and after a change."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cache.fingerprint import file_hash
from tests.test_student.conftest import student_experiment  # noqa: F401 (a fixture)

STAGES = ("teacher", "refine", "student", "evaluate", "report")


@pytest.fixture(scope="module")
def config(student_experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The tiny experiment with a teacher that is trained, not given: its weights are what init_from names."""
    weights = student_experiment / "work/teacher/weights.safetensors"
    path = tmp_path_factory.mktemp("run") / "chain.py"
    path.write_text(
        f"""
_base_ = [{str(student_experiment / "study.py")!r}]
teacher = dict(
    _delete_=True, iterations=2, batch_size=2, workers=0, init_from={str(weights)!r}, validate_every=2,
    checkpoint_every=1, log_every=1,
)
student = dict(iterations=3, burn_in=1, refresh_every=1, checkpoint_every=1)
"""
    )
    return path


@pytest.fixture(scope="module")
def finished(config: Path) -> Path:
    """The work folder of a chain that was terminated in the student with its whole group, and repeated."""
    work = config.parent / "work"
    process = subprocess.Popen(
        command(config, work), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 500
    while not list(work.glob("student/iter_*.pth")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 143
    assert decisions(said) == dict.fromkeys(("teacher", "refine", "student"), "not done yet")
    again = run(config, work)
    assert again.returncode == 0, again.stderr
    said_again = decisions(again.stderr)
    assert said_again["teacher"].startswith("done (validation AP")
    assert said_again["refine"].startswith("done (gen-0001")
    assert said_again["student"] == "goes on (interrupted before)"
    return work


def command(config: Path, work: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "stages", "run", str(config), "--work-dir", str(work), *arguments]


def run(config: Path, work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(config, work, *arguments), capture_output=True, text=True, timeout=500)


def _outputs(work: Path) -> list[Path]:
    return sorted([*work.rglob("*.safetensors"), *work.glob("*.png")])


def decisions(output: str) -> dict[str, str]:
    """What was said of each stage."""
    return dict(re.findall(rf"^({'|'.join(STAGES)}): (.*)$", output, re.MULTILINE))


def test_run__terminated_and_repeated_does_every_stage(config: Path, finished: Path) -> None:
    pictures = ("similarity.png", "augmentation.png")
    for path in ("teacher/weights.safetensors", "student/weights.safetensors", "report.html", *pictures):
        assert (finished / path).stat().st_size > 0
    page = (finished / "report.html").read_text()
    assert all(f'"name":"{name}"' in page for name in pictures)
    evaluated = json.loads((finished / "evaluation.json").read_text())
    assert evaluated["val"].keys() == {"teacher", "student"}


def test_run__finished_chain_is_skipped_stage_by_stage(config: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in _outputs(finished)}
    again = run(config, finished)
    assert again.returncode == 0, again.stderr
    said = decisions(again.stderr)
    assert [said[stage][:4] for stage in STAGES[:4]] == ["done"] * 4
    assert {path: path.stat().st_mtime_ns for path in _outputs(finished)} == before
    assert "teacher AP" in again.stdout and "student AP" in again.stdout and "report.html" in again.stdout


def test_run__changed_setting_is_named_and_all_that_follows_is_done_again(
    config: Path, finished: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(finished, work)
    foretold = run(config, work, "--dry-run", "--set", "teacher.seed=3")
    assert "teacher: done again, because of teacher.seed: 0 then, 3 now" in foretold.stdout
    assert foretold.stdout.count("after that") == 4
    changed = run(config, work, "--set", "teacher.seed=3", "--until", "refine")
    assert changed.returncode == 0, changed.stderr
    assert decisions(changed.stderr)["refine"].startswith("done again, because of teacher: ")
    foretold = run(config, work, "--dry-run", "--set", "teacher.seed=3", "--from", "student")
    assert "student: done again, because its labels were made of something else: teacher" in foretold.stdout


def test_run__changed_student_begins_with_the_teachers_labels_and_is_then_done(
    config: Path, finished: Path, tmp_path: Path
) -> None:
    """The labels that are published by then were made by the average of the student that is done again."""
    work = tmp_path / "work"
    shutil.copytree(finished, work)
    shutil.copytree(work / "cache/gen-0003", work / "cache/gen-0004")  # another training's, never published
    (work / "cache/gen-0004/PUBLISHED.json").unlink()
    setting = ("--set", "student.log_every=2", "--set", "student.seed=1")

    changed = run(config, work, *setting, "--until", "student")

    assert changed.returncode == 0, changed.stderr
    said = decisions(changed.stderr)
    assert said["teacher"].startswith("done (")
    assert said["refine"].startswith("done again, for the student to begin anew")
    assert said["student"] == "done again, because of student.seed: 0 then, 1 now"
    log = [json.loads(line) for line in (work / "student/generations.jsonl").read_text().splitlines()]
    assert log[0]["fingerprint"]["teacher"] == file_hash(work / "teacher/weights.safetensors")
    assert [entry["made"] for entry in log] == [5, 6, 7]
    again = run(config, work, *setting, "--until", "student")
    assert all(why.startswith("done (") for why in decisions(again.stderr).values()), again.stderr


def test_run__what_a_training_does_not_depend_on_leaves_it_alone(
    config: Path,
    finished: Path,
    student_experiment: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A test set that is added at the end, moved data, and its annotations that are corrected."""
    work, data = tmp_path / "work", tmp_path / "data"
    shutil.copytree(finished, work)
    shutil.copytree(student_experiment / "data", data)
    shutil.copy(data / "val.json", data / "test.json")
    settings = [f"data.root={data}", "data.test=test.json", "data.test_images=val", "sam.decoder_chunk=2"]
    changes = [word for setting in settings for word in ("--set", setting)]

    first = run(config, work, *changes, "--until", "evaluate")

    assert first.returncode == 0, first.stderr
    said = decisions(first.stderr)
    assert [said[stage][:6] for stage in STAGES[:3]] == ["done ("] * 3
    assert said["evaluate"] == "2 checkpoint(s) to evaluate"
    assert "evaluate: done" in run(config, work, *changes, "--dry-run").stdout
    document = json.loads((data / "test.json").read_text())
    del document["annotations"][0]
    (data / "test.json").write_text(json.dumps(document))
    assert "evaluate: 2 checkpoint(s) to evaluate" in run(config, work, *changes, "--dry-run").stdout


def test_run__stages_that_have_nothing_to_do_are_left_out(config: Path, tmp_path: Path) -> None:
    alone = ("--dry-run", "--from", "refine", "--until", "student", "--set", "student.refresh_every=None")
    without = run(config, tmp_path, *alone, "--set", "data.unlabeled=None")
    assert "refine: the config has no data.unlabeled" in without.stdout
    assert "student: there are no unlabelled images to learn from" in without.stdout
    control = run(config, tmp_path, *alone, "--set", "student.source=labeled")
    assert "refine: not needed: student.source is 'labeled'" in control.stdout
    assert "student: not done yet" in control.stdout


def test_run__metrics_that_end_in_half_a_line__still_tell_the_time_left(
    config: Path, finished: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(finished, work)
    with (work / "teacher/metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 2, "loss": 0.')
    foretold = run(config, work, "--dry-run", "--until", "teacher", "--set", "teacher.seed=3")
    assert foretold.returncode == 0, foretold.stderr
    assert "at the speed measured before" in foretold.stdout


def test_run__failing_stage_ends_the_chain_with_its_message(config: Path, tmp_path: Path) -> None:
    failed = run(config, tmp_path / "work", "--set", "data.val=absent.json")
    assert failed.returncode == 1
    assert "absent.json" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_run__started_as_several_tasks_is_refused(config: Path, tmp_path: Path) -> None:
    tasks = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    refused = subprocess.run(
        command(config, tmp_path / "work"), env={**os.environ, **tasks}, capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "Call it once, with --devices N" in refused.stderr
    assert not (tmp_path / "work").exists()
