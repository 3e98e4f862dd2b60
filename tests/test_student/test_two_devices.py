"""The student on two devices: both ranks label, rank 0 publishes, both go on with the same labels."""

import json
import os
import subprocess
import sys
from pathlib import Path

from cache.generation import Generation
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
    done = subprocess.run(
        [sys.executable, "-m", "stages", *arguments, "--set", "student.iterations=4"],
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
