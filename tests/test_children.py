"""Commands that call others: which signals reach these, and how often."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
STAGES = """
import pathlib, signal, sys, time
received = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, _: received.append(number))
pathlib.Path("ready").touch()
while not received:
    time.sleep(0.01)
time.sleep(0.3)
sys.exit(100 * len(received) + received[0])
"""
"""Stands for `s4m`: ends a while after a signal, with 100 for each that came and the number of the first."""


@pytest.mark.parametrize("to_all", [True, False], ids=["group", "alone"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_call__signal_to_its_group_or_to_it_alone__reaches_the_command_once(
    number: signal.Signals, to_all: bool, tmp_path: Path
) -> None:
    (tmp_path / "stages.py").write_text(STAGES)  # found first, in the current folder
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from stages.children import call; call([])"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (os.killpg if to_all else os.kill)(process.pid, number)
    assert process.wait(timeout=30) == 100 + number


def test_call__in_a_job_array__leaves_no_share_to_the_command(tmp_path: Path) -> None:
    """An array over experiments: each of its tasks labels all images of its own."""
    (tmp_path / "stages.py").write_text(
        "import os, sys; from cache.sharding import ShardSpec;"
        "sys.exit(7 if ShardSpec.from_environment(os.environ) is None else 8)"
    )
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from stages.children import call; call([])"
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "8"}
    environment = {**os.environ, **array, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment).returncode == 7
