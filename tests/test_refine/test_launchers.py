"""`s4m refine` in local processes, on SLURM and on Ray, with killed workers: the labels of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from s4m_cache.generation import Generation
from s4m_pipeline.core.launchers import SHARDS_PER_WORKER
from test_refine.conftest import assert_same_labels

ROOT = Path(__file__).parents[2]
INTERRUPT = """
import os, sys

SIGNALS = {signals}

def interrupt(event, arguments):
    if event == "os.rename" and os.path.basename(arguments[1]) in SIGNALS:
        number = SIGNALS[os.path.basename(arguments[1])]
        try:
            os.close(os.open(os.path.join({folder!r}, f"{{number}}"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), number)

sys.addaudithook(interrupt)
"""
"""In every process: just before the second part of a shard is stored, its worker is ended, once."""

LOCAL_JOBS = """
import submitit
executor = submitit.AutoExecutor
submitit.AutoExecutor = lambda folder, cluster, **options: executor(folder, cluster="local", **options)
"""
"""submitit's executor for this machine in place of SLURM's."""

KILL, PREEMPT = 9, 12
"""SIGKILL, and SIGUSR2, which SLURM sends before it takes a job's machine away."""


@pytest.fixture
def launch(experiment: Path, tmp_path: Path):
    """Runs `s4m refine --launcher NAME` with its shards interrupted by signals; gives what it printed."""

    def run(name: str, signals: dict[str, int], before: str = "", workers: int = 1, **environment: str):
        for folder in ("hooks", "signals"):
            (tmp_path / folder).mkdir(exist_ok=True)
        numbers = {f"part-000{shard}-000002": number for shard, number in signals.items()}
        (tmp_path / "hooks/sitecustomize.py").write_text(
            INTERRUPT.format(signals=numbers, folder=str(tmp_path / "signals"))
        )
        program = f"{before}\nfrom s4m_stages.cli import main\nmain()"
        command = [sys.executable, "-c", program, "refine", str(experiment / "refine_me.py")]
        command += ["--launcher", name, "--workers", str(workers), "--work-dir", str(tmp_path / name)]
        command += ["--teacher", str(experiment / "weights.safetensors"), "--set", "cache.part_images=1"]
        folders = [str(tmp_path / "hooks"), *map(str, (ROOT, ROOT / "cache", ROOT / "stages"))]
        path = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
        variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=400
        )

    return run


def assert_as_one_process(
    name: str, signals: list[int], tmp_path: Path, refine, num_shards: int = SHARDS_PER_WORKER
) -> None:
    assert sorted(int(path.name) for path in (tmp_path / "signals").iterdir()) == signals
    generation = Generation(tmp_path / name / "cache", 1)
    assert generation.spec.num_shards == num_shards
    assert generation.published() is not None
    refine("alone")
    assert_same_labels(tmp_path / name / "cache", tmp_path / "alone/cache")


@pytest.mark.slow
def test_refine__in_two_local_workers_of_which_one_is_killed__repeated_labels_as_one_process(
    launch, refine, tmp_path
):
    killed = launch("local", {"1": KILL}, workers=2)
    assert killed.returncode == 137, killed.stdout + killed.stderr
    assert Generation(tmp_path / "local/cache", 1).published() is None
    assert Generation(tmp_path / "local/cache", 1).stored_ids().size == 4  # one of shard 1, all of shard 2
    done = launch("local", {"1": KILL}, workers=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_as_one_process("local", [KILL], tmp_path, refine, num_shards=2)


@pytest.mark.slow
def test_refine__on_ray_with_a_killed_worker__labels_as_one_process(launch, refine, tmp_path):
    pytest.importorskip("ray")
    done = launch("ray", {"1": KILL})
    assert done.returncode == 0, done.stdout + done.stderr
    assert_as_one_process("ray", [KILL], tmp_path, refine)


@pytest.mark.slow
def test_refine__in_a_job_array_with_a_killed_and_a_preempted_job__labels_as_one_process(
    launch, refine, tmp_path
):
    pytest.importorskip("submitit")
    (tmp_path / "sbatch").touch(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = launch("slurm", {"1": KILL, "2": PREEMPT}, LOCAL_JOBS, PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 jobs ended without a result" in done.stderr  # the killed one; SLURM requeues the other
    assert_as_one_process("slurm", [KILL, PREEMPT], tmp_path, refine)
