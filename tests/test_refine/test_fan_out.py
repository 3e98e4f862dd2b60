"""One process for each GPU: exit codes, signals, and a whole refine on two pretended GPUs."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from cache.generation import Generation
from s4m_pipeline.refine.fan_out import run_shards
from test_refine.conftest import assert_same_labels

REPOSITORY = Path(__file__).parents[2]

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


def run_while(folder: Path, act) -> int:
    """Two of these, on GPUs "5" and "7"; `act(pids)` is called once both run."""

    def wait_and_act() -> None:
        while not ((folder / "1").exists() and (folder / "2").exists()):
            time.sleep(0.01)
        act([int((folder / name).read_text().split()[0]) for name in ("1", "2")])

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    code = run_shards([str(folder)], ["5", "7"], program=(sys.executable, "-c", SHARD))
    thread.join()
    return code


def test_run_shards__all_succeed__is_0_and_each_has_its_gpu_and_process_group(tmp_path):
    assert run_while(tmp_path, lambda pids: (tmp_path / "go").touch()) == 0
    about = [(tmp_path / name).read_text().split() for name in ("1", "2")]
    assert [gpu for _, gpu, _ in about] == ["5", "7"]
    assert str(os.getpgid(0)) not in [group for _, _, group in about]


def test_run_shards__one_is_killed__waits_for_the_other_and_gives_137(tmp_path):
    def kill_second(pids: list[int]) -> None:
        os.kill(pids[1], signal.SIGKILL)
        (tmp_path / "go").touch()

    assert run_while(tmp_path, kill_second) == 137
    assert (tmp_path / "1-done").exists()


def test_run_shards__terminated__passes_it_on_and_gives_143(tmp_path):
    usual = signal.getsignal(signal.SIGTERM)
    assert run_while(tmp_path, lambda pids: os.kill(os.getpid(), signal.SIGTERM)) == 143
    assert not list(tmp_path.glob("*-done"))
    assert signal.getsignal(signal.SIGTERM) is usual


def test_run_shards__a_shard_that_fails__gives_its_exit_code():
    assert run_shards([], ["0", "1"], program=("false",)) == 1


def test_refine__two_gpus__labels_as_in_one_process_and_publishes(experiment, refine, tmp_path):
    pretend = "from s4m_pipeline.refine import fan_out; fan_out.visible_gpus = lambda: ['0', '1']; "
    command = [sys.executable, "-c", pretend + "from stages.cli import main; main()", "refine"]
    command += [str(experiment / "refine_me.py"), "--work-dir", str(tmp_path / "two")]
    command += ["--teacher", str(experiment / "weights.safetensors"), "--set", "refine.prompt=none"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
    assert Generation(tmp_path / "two/cache", 1).spec.num_shards == 2
    assert Generation(tmp_path / "two/cache", 1).published() is not None
    refine("one", "refine.prompt=none")
    assert_same_labels(tmp_path / "two/cache", tmp_path / "one/cache")
