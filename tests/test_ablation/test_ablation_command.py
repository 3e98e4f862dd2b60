"""`s4m ablation` from the command to the table, with a stand-in for the networks; killed in between."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FAKE = Path(__file__).parent / "fake_s4m.py"
DRIVER = f"""
import sys
from s4m_pipeline.core import processes
processes.S4M = (sys.executable, {str(FAKE)!r})
from s4m_stages.cli import main
main()
"""
ONE_ROW = ("--table", "control", "--rows", "raw", "--seeds", "1")


class Ablation:
    """The command on one work folder, in processes of its own."""

    def __init__(self, study: Path, root: Path) -> None:
        self.study, self.root, self.journal = study, root, root.with_suffix(".journal")

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", DRIVER, "ablation", str(self.study), "--work-dir", str(self.root)]
        return subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": "140", "FAKE_JOURNAL": str(self.journal), **environment},
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit code and output."""
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def events(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 120
        while not any(text in line for line in self.events()):
            assert time.monotonic() < deadline, self.events()
            time.sleep(0.02)

    def count(self, text: str) -> int:
        return sum(line.startswith(text) for line in self.events())


@pytest.fixture
def ablation(study: Path, tmp_path: Path) -> Ablation:
    return Ablation(study, tmp_path / "work")


@pytest.fixture(scope="module")
def finished(study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ablation, str]:
    """The control table with two seeds, and what was printed."""
    ablation = Ablation(study, tmp_path_factory.mktemp("finished") / "work")
    code, output = ablation.run("--table", "control", "--seeds", "2", "--jobs", "2")
    assert code == 0, output
    return ablation, output


def test_ablation__finished__did_shared_work_once(finished):
    ablation, _ = finished
    assert [ablation.count(f"end {stage}") for stage in ("teacher", "refine", "student")] == [2, 4, 8]


def test_ablation__two_jobs__train_two_teachers_at_the_same_time(ablation):
    table = ("--table", "control", "--rows", "raw", "--seeds", "2", "--jobs", "2")
    code, output = ablation.run(*table, FAKE_TEACHERS="2")
    assert code == 0, output


def test_ablation__finished__prints_and_writes_means_gains_and_the_papers_figures(finished):
    ablation, output = finished
    written = (ablation.root / "control.md").read_text()
    assert "+0.0 [+0.0, +0.0]" in output and "-2.0 [-2.0, -2.0]" in output
    assert "| refined labels | 30.5 ± 0.7 | +0.0 [+0.0, +0.0] | 20.5 ± 0.7 | 0.0 [0.0, 0.0] |" in written
    raw = "the teacher's labels as they are"
    row = f"| {raw} | 28.5 ± 0.7 | -2.0 [-2.0, -2.0] | 20.5 ± 0.7 | -25.0 [-25.0, -25.0] |"
    assert row in written and "; headroom +7.9 [+7.9, +7.9]" in written
    record = json.loads((ablation.root / "control.json").read_text())
    assert (record["student"]["raw"], record["teacher"]["raw"]) == ([28.0, 29.0], [20.0, 21.0])


def test_ablation__finished__names_the_folder_of_each_row_and_seed(finished):
    ablation, _ = finished
    folders = json.loads((ablation.root / "control.json").read_text())["folder"]
    assert sorted(folders) == sorted(
        f"{row}-{n}" for row in ("control", "raw", "refined", "truth") for n in (0, 1)
    )
    assert all(Path(folder, "student/weights.safetensors").is_file() for folder in folders.values())
    assert len(set(folders.values())) == 8
    assert not list(ablation.root.rglob("*.tmp"))


def test_ablation__safety__ends_with_the_best_on_the_validation_images(ablation):
    code, _ = ablation.run("--table", "safety", "--seeds", "2")
    assert code == 0
    record = json.loads((ablation.root / "safety.json").read_text())
    assert record["best"] == {"AP": [30.0, 21.0], "network": ["control, student", "ours, teacher"]}
    row = "| the best by validation (`best.safetensors`) | 25.5 ± 6.4 | -5.0 "
    assert row in (ablation.root / "safety.md").read_text()


def test_ablation__repeated__does_nothing_and_prints_the_same_table(finished):
    ablation, before = finished
    events = ablation.events()
    code, after = ablation.run("--table", "control", "--seeds", "2")
    assert code == 0
    assert ablation.events() == events
    assert _table(after) == _table(before)


def _table(output: str) -> list[str]:
    return [line for line in output.splitlines() if "±" in line]


def test_ablation__rows_and_seeds_added_later__do_only_what_is_new(finished):
    ablation, _ = finished
    events = len(ablation.events())
    code, _ = ablation.run("--table", "control", "--rows", "raw", "--seeds", "3")
    assert code == 0
    assert [line.split()[1] for line in ablation.events()[events:] if line.startswith("end")] == [
        "teacher",
        "evaluate",
        "refine",
        "student",
        "evaluate",
    ]


def test_ablation__dry_run__does_nothing(ablation):
    code, output = ablation.run("--dry-run", "--table", "sd-target", "--seeds", "2")
    assert code == 0
    assert "8 teachers, 0 of them done" in output
    assert not ablation.root.exists()


def test_ablation__unknown_names__are_answered_with_those_known(ablation):
    code, output = ablation.run("--table", "component")
    assert code == 2
    assert "components" in output


def test_ablation__job_that_fails__shows_its_log_and_fills_the_rest(ablation):
    code, output = ablation.run("--table", "control", "--seeds", "1", FAKE_FAILS="refine")
    assert code == 1
    assert "refine has no heart" in output
    assert (
        "| labels only, the labeled images in both branches | 30.0 |"
        in (ablation.root / "control.md").read_text()
    )
    assert "| refined labels | - |" in (ablation.root / "control.md").read_text()


@pytest.mark.parametrize("stage", ["teacher", "refine"])
def test_ablation__job_that_failed_in_its_folder__is_fixed_by_a_repeat(stage, ablation):
    code, output = ablation.run(*ONE_ROW, FAKE_FAILS=stage)
    assert code == 1
    assert f"{'teacher' if stage == 'teacher' else 'student'} of raw, seed 0: exit code 1" in output
    code, output = ablation.run(*ONE_ROW)
    assert code == 0, output
    assert "| the teacher's labels as they are | 28.0 |" in (ablation.root / "control.md").read_text()


def test_ablation__only_teachers_compared__trains_no_student(ablation):
    code, _ = ablation.run("--table", "sd-target", "--rows", "none", "--seeds", "1")
    assert code == 0
    assert {line.split()[1] for line in ablation.events()} == {"teacher", "evaluate"}
    assert "| none | 20.0 | - | 4.0 | 19.0 |" in (ablation.root / "sd-target.md").read_text()


@pytest.mark.parametrize("stage", ["teacher", "refine", "student"])
def test_ablation__killed_while_its_children_run_on__waits_for_them_and_resumes(stage, ablation):
    process = ablation.start(*ONE_ROW, FAKE_SECONDS="2")
    ablation.wait_for(f"begin {stage}")
    process.kill()
    process.wait()
    code, output = ablation.run(*ONE_ROW)
    assert code == 0, output
    assert ablation.count(f"end {stage}") == 1
    stages = ("teacher", "refine", "student")
    assert [ablation.count(f"begin {name}") for name in stages] == [1, 1, 1]


def test_ablation__killed_with_its_children__does_the_broken_stage_again(ablation):
    process = ablation.start(*ONE_ROW, FAKE_SECONDS="2")
    ablation.wait_for("begin refine")
    for child in _children(process.pid):
        os.kill(child, signal.SIGKILL)
    process.kill()
    process.wait()
    code, output = ablation.run(*ONE_ROW)
    assert code == 0, output
    assert [ablation.count(f"begin {name}") for name in ("teacher", "refine", "student")] == [1, 2, 1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ablation__on_a_signal__stops_its_children_and_says_so(number, ablation):
    process = ablation.start(*ONE_ROW, FAKE_SECONDS="30")
    ablation.wait_for("begin teacher")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "the same command resumes" in output
    assert ablation.count("end teacher") == 0
    assert not list(ablation.root.rglob("weights.safetensors"))


def _children(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True)
    return [int(word) for word in listed.stdout.split()]
