"""`s4m` run by itself: whose code runs, which signals reach it and how often, and its exit codes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from s4m_pipeline.core import processes
from s4m_pipeline.core.devices import divided, own_cores
from s4m_pipeline.core.processes import run_shards

TRAP = """
import pathlib
pathlib.Path(__file__).with_suffix(".imported").touch()
raise ImportError("a file of the user's")
"""
STARTS = {
    "call": """
from s4m_pipeline.core.processes import call
call(["refine", "--help"])
""",
    "shards": """
from s4m_pipeline.core.processes import run_shards
raise SystemExit(run_shards(["refine", "--help"], ["0", "1"]))
""",
    "ranks": """
from s4m_pipeline.core.processes import run_ranks
raise SystemExit(run_ranks(2, ["refine", "--help"]))
""",
}
"""Every way to run `s4m`; an ablation runs it as shards are."""


@pytest.mark.parametrize("start", STARTS)
def test_command__files_of_our_names_in_the_folder__are_not_imported(start: str, tmp_path: Path) -> None:
    for name in ("cache.py", "stages.py", "s4m_pipeline.py", "s4m_cache.py", "s4m_stages.py"):
        (tmp_path / name).write_text(TRAP)
    command = [sys.executable, "-P", "-c", STARTS[start]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert not list(tmp_path.rglob("*.imported"))
    assert done.returncode == 0, done.stderr


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
CALL = """
import sys
from s4m_pipeline.core import processes
processes.S4M = (sys.executable, "stand_in.py")
processes.call([])
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


def test_call__in_a_job_array__does_all_of_the_work(tmp_path: Path) -> None:
    """An array over experiments: each of its tasks labels all images of its own."""
    (tmp_path / "stand_in.py").write_text(
        "import os, sys; from s4m_cache.sharding import ShardSpec;"
        "sys.exit(7 if ShardSpec.from_environment(os.environ) is None else 8)"
    )
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "8"}
    environment = {**os.environ, **array}
    assert subprocess.run([sys.executable, "-c", CALL], cwd=tmp_path, env=environment).returncode == 7


SHARD = """
import os, signal, sys, time
folder, shard = sys.argv[1], sys.argv[-1]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with open(f"{folder}/.{shard[0]}", "w") as file:
    file.write(f"{os.getpid()} {os.environ['CUDA_VISIBLE_DEVICES']} {os.getpgid(0)}")
os.rename(f"{folder}/.{shard[0]}", f"{folder}/{shard[0]}")
while not os.path.exists(f"{folder}/go"):
    time.sleep(0.01)
time.sleep(0.1)
open(f"{folder}/{shard[0]}-done", "w").close()
"""
"""Stands for a shard: says that it runs, ends once `go` is there, or with 143 on SIGTERM."""


@pytest.fixture
def run_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[list[int]], object]], int]:
    """Runs two shards on GPUs "5" and "7", calls `act(pids)` once both run, and gives the exit code."""
    monkeypatch.setattr(processes, "S4M", (sys.executable, "-c", SHARD))

    def run(act: Callable[[list[int]], object]) -> int:
        def wait_and_act() -> None:
            while not ((tmp_path / "1").exists() and (tmp_path / "2").exists()):
                time.sleep(0.01)
            act([int((tmp_path / name).read_text().split()[0]) for name in ("1", "2")])

        thread = threading.Thread(target=wait_and_act)
        thread.start()
        code = run_shards([str(tmp_path)], ["5", "7"])
        thread.join()
        return code

    return run


def test_run_shards__all_succeed__is_0_and_each_has_its_gpu_and_process_group(
    run_two, tmp_path: Path
) -> None:
    assert run_two(lambda pids: (tmp_path / "go").touch()) == 0
    about = [(tmp_path / name).read_text().split() for name in ("1", "2")]
    assert [gpu for _, gpu, _ in about] == ["5", "7"]
    assert str(os.getpgid(0)) not in [group for _, _, group in about]


def test_run_shards__one_is_killed__waits_for_the_other_and_gives_137(run_two, tmp_path: Path) -> None:
    def kill_second(pids: list[int]) -> None:
        os.kill(pids[1], signal.SIGKILL)
        (tmp_path / "go").touch()

    assert run_two(kill_second) == 137
    assert (tmp_path / "1-done").exists()


def test_run_shards__terminated__passes_it_on_and_gives_143(run_two, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run_two(lambda pids: os.kill(os.getpid(), signal.SIGTERM)) == 143
    assert not list(tmp_path.glob("*-done"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_run_shards__a_shard_that_fails__gives_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "S4M", ("false",))
    assert run_shards([], ["0", "1"]) == 1


def test_divided__cores_and_threads_of_a_fan_out__are_shared_by_its_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = divided(3)
    assert environment["OMP_NUM_THREADS"] == "4" and own_cores(environment) == 4
    assert own_cores({}) == 12 and own_cores(divided(100)) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert divided(3)["OMP_NUM_THREADS"] == "2"
