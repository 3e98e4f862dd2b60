"""`s4m` run by itself: commands in processes of their own, several at a time, and ranks under torchrun."""

import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from signal import SIGHUP, SIGINT, SIGTERM, Signals
from types import FrameType
from typing import IO, Self

from s4m_cache.sharding import ShardSpec
from s4m_pipeline.core import console
from s4m_pipeline.core.devices import divided
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.signals import handled_by

S4M = (sys.executable, "-P", "-m", "s4m_stages")
"""Command line of `s4m`; -P: a file in the current folder is never imported in its place."""


class Launcher:
    """Runs `s4m ARGUMENTS` in processes of their own.

    As a context it handles SIGTERM, SIGINT and SIGHUP: each is passed on to every running process, which has
    time to save, and no further process is started.

    Attributes:
        received: the signal that came, 0 if none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._running: set[subprocess.Popen[bytes]] = set()
        self._context = ExitStack()

    def __enter__(self) -> Self:
        self._context.enter_context(handled_by(self._pass_on, SIGTERM, SIGINT, SIGHUP))
        return self

    def __exit__(self, *exception: object) -> None:
        self._context.close()

    def run(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        output: IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> int:
        """Run one command and wait for it; threads that call this run theirs at the same time.

        A command run by a task of a job array does all of the work, not the task's shard of it.

        Args:
            environment: variables that the process has besides this one's.
            output: file that receives stdout and stderr.
            pass_fds: open files that the process inherits, as those of locks.

        Returns:
            The exit code; 128 + N for a process that signal N ended, or kept from starting.
        """
        if self.received:
            return 128 + self.received
        process = subprocess.Popen(
            [*S4M, *arguments],
            env=ShardSpec.no_environment({**os.environ, **(environment or {})}),
            stdin=subprocess.DEVNULL if output else None,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            # Files that this process inherited are handed on: so `s4m ablation` keeps folders locked.
            close_fds=bool(pass_fds),
            pass_fds=pass_fds,
            process_group=0,  # Ctrl-C, a signal to the whole group, would otherwise arrive twice
        )
        self._running.add(process)
        if self.received:  # while it was started
            process.send_signal(self.received)
        code = process.wait()
        self._running.discard(process)
        return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        for process in list(self._running):
            process.send_signal(number)


def call(arguments: Sequence[str]) -> None:
    """Run `s4m ARGUMENTS` and wait.

    Raises:
        SystemExit: with its exit code, if it fails; 128 + N after signal N.
    """
    with Launcher() as launcher:
        code = launcher.run(arguments)
    if code or launcher.received:
        raise SystemExit(code or 128 + launcher.received)


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    import torch

    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",")[:count] if listed else [str(index) for index in range(count)]


def run_shards(arguments: Sequence[str], gpus: Sequence[str]) -> int:
    """Run `s4m ARGUMENTS --shard i/n` on each of n GPUs at once, and wait for all.

    A shard that fails does not stop the others: what they store counts.

    Returns:
        0 if all succeeded, otherwise the exit code of the first shard that did not.
    """
    count = len(gpus)
    with Launcher() as launcher, ThreadPoolExecutor(count) as pool:
        codes = pool.map(
            lambda index, gpu: launcher.run(
                [*arguments, "--shard", f"{index}/{count}"],
                environment={"CUDA_VISIBLE_DEVICES": gpu, **divided(count)},
            ),
            range(1, count + 1),
            gpus,
        )
        return next((code for code in list(codes) if code), 0)


_EXPLAINED = {
    "SIGABRT": " NCCL does this when another rank has ended or has not answered for rank_timeout_s seconds.\n"
    "Checkpoints are intact: repeat the command to resume from the last one.",
    "SIGKILL": " The system does this when memory runs out: fewer `workers` need less.\n"
    "Checkpoints are intact: repeat the command to resume from the last one.",
}


def run_ranks(devices: int, arguments: Sequence[str]) -> int:
    """Run `s4m ARGUMENTS` as `devices` ranks of one training on this machine, under torchrun.

    torchrun passes SIGTERM and SIGINT on, and stops all ranks when one fails. Its interface in Python is used
    because the command `torchrun` ends with 1 after a signal, and with a traceback.

    Returns:
        The exit code of all: 0, 143 or 130 after a signal, otherwise that of the first rank that failed.

    Raises:
        UserError: if there are GPUs, but fewer than `devices`.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if 0 < torch.cuda.device_count() < devices:
        raise UserError(
            f"--devices {devices}: this machine has {torch.cuda.device_count()} visible GPUs.\n"
            "Ask for at most as many; for several machines, start with torchrun or srun."
        )
    os.environ.update(divided(devices))
    torch._logging.set_logs(distributed=logging.CRITICAL)  # the ranks explain themselves
    torchrun = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(torchrun, S4M[0])(*S4M[1:], *arguments)
    except SignalException as received:
        return 128 + received.sigval
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        name = Signals(-failure.exitcode).name
        console.error.print(f"The process of rank {rank} was ended by {name}.{_EXPLAINED.get(name, '')}")
        return 1
    return 0
