"""Where the shards of a command run: processes of this machine, an array of SLURM jobs, or tasks of Ray.

A launcher runs `s4m ARGUMENTS --shard i/n` for each of n shards and waits. Shards may be started again at any
time, by any launcher: what is stored is skipped. So a lost worker costs what it had not stored yet.
"""

import logging
import os
import runpy
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.processes import run_shards, visible_gpus

LauncherName = Literal["local", "slurm", "ray"]

SHARDS_PER_WORKER = 4
"""On a cluster: a lost worker costs at most this fraction of its work, and fast workers take over more."""

LOST = 137
"""Exit code of a shard whose process was killed, as of one ended by kill -9."""

_ATTEMPTS = 3
"""How often a shard is started when its process is lost."""

_SLURM_MINUTES = 240
_SLURM_TIMEOUTS = 100
"""How often a job may reach its time limit: it is requeued, and resumes."""


class Shards(NamedTuple):
    """What a launcher runs."""

    arguments: Sequence[str]
    """Of `s4m`, without `--shard`."""
    workers: int
    """Shards at a time."""
    cpus: int
    """Processes that a worker uses, on a cluster that counts them."""
    folder: Path
    """For the files of a job array; shared by all machines."""

    def commands(self) -> list[list[str]]:
        """The arguments of each shard, for launchers with more shards than workers."""
        count = SHARDS_PER_WORKER * self.workers
        return [[*self.arguments, "--shard", f"{index}/{count}"] for index in range(1, count + 1)]


class Launch(Protocol):
    """Runs all shards and waits; a shard that fails does not stop the others.

    Returns:
        0 if all succeeded, otherwise the exit code of the first shard that did not; 137 for a lost worker.

    Raises:
        UserError: if it cannot start them.
    """

    def __call__(self, shards: Shards) -> int: ...


def run_local(shards: Shards) -> int:
    """In processes of this machine, one for each GPU; without GPUs they share the CPU."""
    gpus = visible_gpus()
    if gpus and shards.workers > len(gpus):
        raise UserError(
            f"--workers {shards.workers}: this machine has {len(gpus)} visible GPUs.\n"
            "Ask for at most as many, or choose a cluster with --launcher slurm or ray."
        )
    return run_shards(shards.arguments, gpus[: shards.workers] or [""] * shards.workers)


def run_on_slurm(shards: Shards) -> int:
    """In an array of SLURM jobs with a GPU each, submitted by submitit, `shards.workers` at a time.

    A job that is preempted or reaches its time limit is requeued; one that is killed is submitted again. The
    variables that sbatch reads (SBATCH_PARTITION, SBATCH_TIMELIMIT, ...) change the jobs.
    """
    _require("submitit", "slurm")
    if shutil.which("sbatch") is None:
        raise UserError(
            "--launcher slurm: there is no sbatch on the PATH.\n"
            "Start the command on a login node of the cluster, or choose --launcher local or ray."
        )
    import submitit

    executor = submitit.AutoExecutor(
        folder=shards.folder, cluster="slurm", slurm_max_num_timeout=_SLURM_TIMEOUTS
    )
    executor.update_parameters(
        name="s4m-refine",
        timeout_min=_SLURM_MINUTES,
        slurm_array_parallelism=shards.workers,
        slurm_gpus_per_node=1,
        slurm_cpus_per_task=shards.cpus,
        slurm_additional_parameters={"requeue": True},
    )
    waiting, codes = shards.commands(), []
    for _ in range(_ATTEMPTS):
        try:
            jobs = executor.map_array(_Task(), waiting)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"--launcher slurm: sbatch refused the jobs: {error}\n"
                "Their options can be changed by sbatch's variables, such as SBATCH_PARTITION."
            ) from error
        console.progress.print(f"{len(jobs)} jobs submitted; their output: {shards.folder}", soft_wrap=True)
        results = [_result(job) for job in jobs]
        for job, code in zip(jobs, results, strict=True):
            if code:
                console.error.print(f"Job {job.job_id} ended with {code}: {job.paths.stderr}")
        codes += [code for code in results if code is not None]
        waiting = [command for command, code in zip(waiting, results, strict=True) if code is None]
        if not waiting:
            break
        console.progress.print(f"{len(waiting)} jobs ended without a result.")
    return _first_failure([*codes, *(LOST for _ in waiting)])


def run_on_ray(shards: Shards) -> int:
    """In tasks of Ray with a GPU each, or a CPU core where the cluster has none; lost ones are retried.

    The cluster is that of RAY_ADDRESS, or a running one of this machine, or else one is started here.
    """
    _require("ray", "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # for a cluster that is started here
    import ray

    ray.init(logging_level=logging.ERROR)
    try:
        gpus = int("GPU" in ray.cluster_resources())
        folder = Path.cwd()

        @ray.remote(max_retries=_ATTEMPTS - 1, num_cpus=1, num_gpus=gpus)
        def shard(arguments: Sequence[str]) -> int:
            return _Task(folder)(arguments)

        waiting = shards.commands()
        running: list[Any] = []
        codes: list[int] = []
        while waiting or running:
            while waiting and len(running) < shards.workers:
                running.append(shard.remote(waiting.pop(0)))
            done, running = ray.wait(running)
            try:
                codes += ray.get(done)
            except ray.exceptions.RayError as error:
                console.error.print(f"A worker was lost {_ATTEMPTS} times: {error}")
                codes.append(LOST)
        return _first_failure(codes)
    finally:
        ray.shutdown()


LAUNCHERS: dict[LauncherName, Launch] = {"local": run_local, "slurm": run_on_slurm, "ray": run_on_ray}


class _Task:
    """Runs `s4m ARGUMENTS` in the process of a cluster's worker, so that both are killed together.

    Args:
        folder: working directory, for workers that do not start in the command's own.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.requeued = False

    def __call__(self, arguments: Sequence[str]) -> int:
        """Returns the exit code."""
        if self.folder is not None:
            os.chdir(self.folder)
        sys.argv[1:] = arguments
        try:
            runpy.run_module("s4m_stages", run_name="__main__")
        except SystemExit as end:
            if self.requeued:  # submitit ends this process, and starts another
                raise
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    def checkpoint(self, arguments: Sequence[str]) -> Any:
        """What submitit runs when it requeues the job: the same, as the labels are in the cache."""
        import submitit

        self.requeued = True
        return submitit.helpers.DelayedSubmission(_Task(self.folder), arguments)


def _result(job: Any) -> int | None:
    """The exit code of a job of submitit; None if it was lost."""
    from submitit.core.utils import UncompletedJobError

    try:
        return int(job.result())
    except UncompletedJobError:
        return None


def _first_failure(codes: Sequence[int]) -> int:
    return next((code for code in codes if code), 0)


def _require(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise UserError(
            f"--launcher {extra} needs the package {package}.\n"
            f'Install it: pip install "s4m-pipeline[{extra}]"'
        )
