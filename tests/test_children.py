"""`s4m` called by itself: whose code runs, and which signals reach it, how often."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TRAP = """
import pathlib
pathlib.Path(__file__).with_suffix(".imported").touch()
raise ImportError("a file of the user's")
"""
STARTS = {
    "call": """
from s4m_pipeline.children import call
call(["refine", "--help"])
""",
    "shards": """
from s4m_pipeline.refine.fan_out import run_shards
raise SystemExit(run_shards(["refine", "--help"], ["0", "1"]))
""",
    "ranks": """
from s4m_pipeline.engine.launch import launch
raise SystemExit(launch(2, ["refine", "--help"]))
""",
    "jobs": """
from pathlib import Path
from s4m_pipeline.ablation.jobs import Job, Workers
workers = Workers(1, print)
workers.run([{Path("job"): Job("help", Path("job"), (("refine", "--help"),), (), lambda: False)}])
raise SystemExit(len(workers.failed))
""",
}
"""Everything that calls `s4m`."""


@pytest.mark.parametrize("start", STARTS)
def test_child__files_of_our_names_in_the_folder__are_not_imported(start: str, tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    for name in ("cache.py", "s4m_pipeline.py", "stages/__init__.py", "stages/__main__.py"):
        (tmp_path / name).write_text(TRAP)
    command = [sys.executable, "-P", "-c", STARTS[start]]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert not list(tmp_path.rglob("*.imported"))
    assert done.returncode == 0, done.stderr


def test_child__parent_runs_a_copy_that_is_not_installed__runs_that_copy(tmp_path: Path) -> None:
    """As with `cd CLONE; python -m stages run ...`, by an interpreter that knows another clone, or none."""
    for package in ("cache", "s4m_pipeline", "stages"):
        skipped = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(REPOSITORY / package, tmp_path / "clone" / package, ignore=skipped)
    with (tmp_path / "clone/stages/cli.py").open("a") as file:
        file.write("\n\ndef main() -> None:\n    import cache, s4m_pipeline\n")
        file.write("    print(__file__, cache.__file__, s4m_pipeline.__file__)\n")
    (tmp_path / "elsewhere").mkdir()
    code = "import os; from s4m_pipeline.children import call; os.chdir('../elsewhere'); call([])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]  # imports from the current folder first
    printed = subprocess.check_output(command, cwd=tmp_path / "clone", env=environment, text=True)
    clone = tmp_path / "clone"
    files = ("stages/cli.py", "cache/__init__.py", "s4m_pipeline/__init__.py")
    assert printed.split() == [str(clone / file) for file in files]


STAND_IN = """
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
CALL = f"""
import sys; sys.path.insert(0, {str(REPOSITORY)!r})
from s4m_pipeline import children
children.S4M = (sys.executable, "stand_in.py")
children.call([])
"""


@pytest.mark.parametrize("to_all", [True, False], ids=["group", "alone"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_call__signal_to_its_group_or_to_it_alone__reaches_the_command_once(
    number: signal.Signals, to_all: bool, tmp_path: Path
) -> None:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    process = subprocess.Popen([sys.executable, "-c", CALL], cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (os.killpg if to_all else os.kill)(process.pid, number)
    assert process.wait(timeout=30) == 100 + number


def test_call__in_a_job_array__leaves_no_share_to_the_command(tmp_path: Path) -> None:
    """An array over experiments: each of its tasks labels all images of its own."""
    (tmp_path / "stand_in.py").write_text(
        "import os, sys; from cache.sharding import ShardSpec;"
        "sys.exit(7 if ShardSpec.from_environment(os.environ) is None else 8)"
    )
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "8"}
    environment = {**os.environ, **array, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", CALL], cwd=tmp_path, env=environment).returncode == 7
