"""Processes of one training on several devices: who started them, and starting them ourselves."""

import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from signal import Signals
from typing import NamedTuple

from s4m_pipeline import console
from s4m_pipeline.children import S4M
from s4m_pipeline.errors import UserError


class Place(NamedTuple):
    """Where a process stands among those of its training."""

    rank: int
    local_rank: int
    """Its number on its machine, which chooses the GPU."""
    world_size: int
    master_addr: str
    """Machine of rank 0."""
    master_port: int


def find_place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """The place that torchrun or srun gave to this process; None if it trains alone.

    Without torchrun, MASTER_ADDR and MASTER_PORT may be set beside srun's variables to choose both.
    """
    if environment.keys() >= {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}:
        return Place(
            int(environment["RANK"]),
            int(environment.get("LOCAL_RANK", 0)),
            int(environment["WORLD_SIZE"]),
            environment["MASTER_ADDR"],
            int(environment["MASTER_PORT"]),
        )
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # set by srun, not in a batch script itself
        return Place(
            int(environment["SLURM_PROCID"]),
            int(environment["SLURM_LOCALID"]),
            int(environment["SLURM_STEP_NUM_TASKS"]),
            environment.get("MASTER_ADDR") or _first_host(environment["SLURM_STEP_NODELIST"]),
            # A number of the job's own, as two jobs may share a machine.
            int(environment.get("MASTER_PORT") or 20_000 + int(environment["SLURM_JOB_ID"]) % 20_000),
        )
    return None


def _first_host(node_list: str) -> str:
    try:
        hosts = subprocess.run(
            ["scontrol", "show", "hostnames", node_list], capture_output=True, text=True, check=True
        )
        return hosts.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UserError(
            f"The first machine of SLURM's node list {node_list} is unknown: scontrol failed ({error}).\n"
            "Set MASTER_ADDR to the machine of task 0."
        ) from error


def share_of_batch(name: str, batch_size: int, processes: int) -> int:
    """Images of each process, of `batch_size` in all.

    Args:
        name: key of the batch size in the config, for the message.

    Raises:
        UserError: if they cannot be divided.
    """
    if batch_size % processes:
        raise UserError(
            f"{name}: {batch_size} images cannot be divided among {processes} devices.\n"
            f"Expected a multiple of {processes}: the batch size is that of all devices together. "
            "Change it, or the number of devices."
        )
    return batch_size // processes


def launch_ranks(devices: int, share_batches: Callable[[int], object]) -> None:
    """Where several devices are asked for and no launcher has started this process: run this command in as
    many processes, and exit as they do. Else nothing.

    Args:
        share_batches: shares the training's batches out among so many processes, or refuses to.

    Raises:
        UserError: as `share_batches`, or if there are GPUs, but fewer than `devices`.
        SystemExit: with the exit code of all.
    """
    place = find_place()
    share_batches(place.world_size if place else devices)
    if place is None and devices > 1:
        raise SystemExit(launch(devices, sys.argv[1:]))


def launch(devices: int, arguments: Sequence[str]) -> int:
    """Run `s4m ARGUMENTS` as `devices` processes of this machine under torchrun.

    SIGTERM and SIGINT are passed on. When one process ends with a failure, the others are stopped.

    Returns:
        The exit code of all: 0, 143 or 130 after a signal, else that of the first process that failed.

    Raises:
        UserError: if there are GPUs, but fewer than `devices`.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if 0 < torch.cuda.device_count() < devices:
        raise UserError(
            f"--devices {devices}: this machine shows {torch.cuda.device_count()} GPUs.\n"
            "Ask for as many or fewer; for several machines, start with torchrun or srun."
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
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
        console.error.print(f"The process of rank {rank} was ended by {Signals(-failure.exitcode).name}.")
        return 1
    return 0
