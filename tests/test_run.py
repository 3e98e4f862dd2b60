"""`s4m run`: the whole chain on a tiny experiment, repeated, interrupted, and after a change."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from s4m_cache.fingerprint import file_hash
from s4m_cache.locks import FileLock
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.planning.plan import Experiment, Planner
from s4m_stages.run import run as s4m_run
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
    assert decisions(said) == dict.fromkeys(("teacher", "refine", "student"), "not started")
    again = run(config, work)
    assert again.returncode == 0, again.stderr
    said_again = decisions(again.stderr)
    assert said_again["teacher"].startswith("finished (validation AP")
    assert said_again["refine"].startswith("finished (gen-0001")
    assert re.fullmatch(r"resumes from iteration \d \(interrupted before\)", said_again["student"])
    return work


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(finished, tmp_path / "work"))


def command(config: Path, work: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "s4m_stages", "run", str(config), "--work-dir", str(work), *arguments]


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
    assert '"errors":{"split":"val"' in page


def test_run__finished_chain_is_skipped_stage_by_stage(config: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in _outputs(finished)}
    again = run(config, finished)
    assert again.returncode == 0, again.stderr
    said = decisions(again.stderr)
    assert all(said[stage].startswith("finished") for stage in STAGES[:4]), said
    assert {path: path.stat().st_mtime_ns for path in _outputs(finished)} == before
    assert "teacher AP" in again.stdout and "student AP" in again.stdout and "report.html" in again.stdout
    assert "Mask AP on data.val" in again.stdout and "optimistic" in again.stdout
    assert re.search(r"best\.safetensors: the (teacher|student), validation AP", again.stdout)
    assert '"verdict":["Mask AP on data.val' in (finished / "report.html").read_text()


def test_run__control__is_trained_without_unlabeled_images_and_enters_the_verdict(
    config: Path, work: Path
) -> None:
    shutil.rmtree(work / "cache")  # the control needs no labels
    added = run(config, work, "--control", "--from", "control", "--until", "evaluate")
    assert added.returncode == 0, added.stderr
    assert "control: not started" in added.stderr
    assert json.loads((work / "control/run.json").read_text())["config"]["student"]["source"] == "labeled"
    assert (work / "control/weights.safetensors").is_file()
    assert not (work / "control/generations.jsonl").exists()
    assert "than the control" in added.stdout
    again = run(config, work, "--control", "--from", "control", "--until", "control", "--dry-run")
    assert "control: finished (validation AP" in again.stdout


def test_run__changed_setting_with_overwrite__is_named_and_all_that_follows_is_done_again(
    config: Path, work: Path
) -> None:
    again = ("--set", "teacher.seed=3", "--overwrite")
    planned = run(config, work, "--dry-run", *again)
    assert planned.returncode == 0, planned.stderr
    assert "teacher: re-run, because teacher.seed changed: 0 -> 3" in planned.stdout
    assert planned.stdout.count("runs after the stages before it") == 4
    changed = run(config, work, *again, "--until", "refine")
    assert changed.returncode == 0, changed.stderr
    assert decisions(changed.stderr)["refine"].startswith("re-run, because the teacher's weights changed: ")
    planned = run(config, work, "--dry-run", *again, "--from", "student")
    assert "student: re-run, because the teacher's weights changed: sha256:" in planned.stdout


@pytest.mark.parametrize("setting", ["teacher.seed=3", "refine.points=5", "student.seed=3"])
def test_run__changed_setting__deletes_nothing_and_says_how_to_continue(
    setting: str, config: Path, finished: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    for switches in ((), ("--dry-run",)):
        refused = run(config, finished, "--set", setting, *switches)
        assert refused.returncode == 1
        name, _, value = setting.partition("=")
        assert re.search(rf"{re.escape(name)} changed: \d -> {value}", refused.stderr), refused.stderr
        assert "--work-dir NEW" in refused.stderr and "--overwrite" in refused.stderr
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_run__training_that_lost_its_parent__is_named_and_nothing_is_planned(
    config: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    parent = subprocess.Popen(command(config, work, "--until", "teacher"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (work / "teacher/run.json").exists():
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    (training,) = re.findall(r"process (\d+)", (work / "teacher/LOCK").read_text())
    os.kill(int(training), signal.SIGSTOP)  # so that it lives on for as long as this test needs it
    try:
        for switches in ((), ("--dry-run",), ("--overwrite",)):
            refused = run(config, work, *switches)
            assert refused.returncode == 1
            assert re.search(
                rf"teacher: a training is running in .*host .*, process {training}, since 20", refused.stderr
            )
            assert decisions(refused.stderr + refused.stdout).keys() == {"teacher"}
    finally:
        os.kill(int(training), signal.SIGKILL)
        os.kill(int(training), signal.SIGCONT)


def test_run__training_of_a_stage_that_is_not_chosen__is_no_obstacle(config: Path, work: Path) -> None:
    with FileLock(work / "student/LOCK", exclusive=True):
        assert run(config, work, "--dry-run", "--until", "refine").returncode == 0
        assert run(config, work, "--dry-run").returncode == 1


def test_run__dry_run__builds_no_network(config: Path, finished: Path) -> None:
    code = (
        "import sys\nfrom s4m_stages.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    arguments = command(config, finished, "--dry-run")[3:]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"


def test_run__dry_run__reads_every_file_once(
    config: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()
    usual_open = Path.open

    def count(path: Path) -> None:
        if path.suffix in (".json", ".jsonl", ".safetensors", ".yaml"):
            reads[str(path.resolve())] += 1

    def counted_open(path: Path, *arguments: Any, **options: Any) -> Any:
        count(path)
        return usual_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", counted_open)
    s4m_run(config, dry_run=True, work_dir=finished)
    assert len(reads) > 5
    several = {path: number for path, number in reads.items() if number > 1}
    assert several == {}


def test_run__changed_student_begins_with_the_teachers_labels_and_is_then_done(
    config: Path, work: Path
) -> None:
    """The labels that are published by then were made by the EMA weights of the student that is re-run."""
    shutil.copytree(work / "cache/gen-0003", work / "cache/gen-0004")  # another training's, never published
    (work / "cache/gen-0004/PUBLISHED.json").unlink()
    setting = ("--set", "student.log_every=2", "--set", "student.seed=1")

    changed = run(config, work, *setting, "--until", "student", "--overwrite")

    assert changed.returncode == 0, changed.stderr
    said = decisions(changed.stderr)
    assert said["teacher"].startswith("finished (")
    assert said["refine"].startswith("re-run, because the student starts over")
    assert said["student"] == "re-run, because student.seed changed: 0 -> 1"
    log = [json.loads(line) for line in (work / "student/generations.jsonl").read_text().splitlines()]
    assert log[0]["fingerprint"]["teacher"] == file_hash(work / "teacher/weights.safetensors")
    assert [entry["made"] for entry in log] == [5, 6, 7]
    again = run(config, work, *setting, "--until", "student")
    assert all(why.startswith("finished (") for why in decisions(again.stderr).values()), again.stderr


@pytest.mark.parametrize("current", [True, False])
def test_plan__labels_begun_before__meet_the_gate_unless_older_ones_are_current(
    current: bool, config: Path, work: Path
) -> None:
    """Only labels of an earlier training make the gate's comparison unfair."""
    shutil.rmtree(work / "student")
    if not current:
        (work / "cache/CURRENT.json").unlink()
    options, content = load_experiment(config, ["refine.min_score=0.6"] if current else [])
    experiment = Experiment(config_path=config, config=content, options=options, folder=work, devices=1)
    plan = Planner(experiment).plan("refine")
    assert plan.arguments is not None
    assert ("student.gate=off" in plan.arguments) == current


def test_run__what_a_training_does_not_depend_on_leaves_it_alone(
    config: Path,
    work: Path,
    student_experiment: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A test set that is added at the end, moved data, and its annotations that are corrected."""
    data = tmp_path / "data"
    shutil.copytree(student_experiment / "data", data)
    shutil.copy(data / "val.json", data / "test.json")
    settings = [f"data.root={data}", "data.test=test.json", "data.test_images=val", "sam.decoder_chunk=2"]
    changes = [word for setting in settings for word in ("--set", setting)]

    first = run(config, work, *changes, "--until", "evaluate")

    assert first.returncode == 0, first.stderr
    said = decisions(first.stderr)
    assert all(said[stage].startswith("finished (") for stage in STAGES[:3]), said
    assert said["evaluate"] == "2 checkpoints to evaluate"
    assert "evaluate: finished" in run(config, work, *changes, "--dry-run").stdout
    document = json.loads((data / "test.json").read_text())
    del document["annotations"][0]
    (data / "test.json").write_text(json.dumps(document))
    assert "evaluate: 2 checkpoints to evaluate" in run(config, work, *changes, "--dry-run").stdout


def test_run__metrics_that_end_in_half_a_line__still_tell_the_time_left(config: Path, work: Path) -> None:
    with (work / "teacher/metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 2, "loss": 0.')
    planned = run(config, work, "--dry-run", "--until", "teacher", "--set", "teacher.seed=3", "--overwrite")
    assert planned.returncode == 0, planned.stderr
    assert "at the speed measured before" in planned.stdout


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
