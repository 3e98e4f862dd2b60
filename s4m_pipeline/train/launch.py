"""Ranks of one training on several devices: which one a process is, its part of a batch, how they start."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from s4m_pipeline.config.student import StudentOptions
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.processes import run_ranks


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


def batch_per_rank(name: str, batch_size: int, processes: int, accumulate: int) -> int:
    """Images of each process, of `batch_size` in all.

    Args:
        name: key of the batch size in the config, for the message.
        accumulate: parts that each process computes its images in.

    Raises:
        UserError: if they cannot be divided.
    """
    if batch_size % (processes * accumulate):
        parts = f" in {accumulate} parts each (`accumulate`)" if accumulate > 1 else ""
        raise UserError(
            f"{name}: {batch_size} images cannot be divided among {processes} devices{parts}.\n"
            f"Expected a multiple of {processes * accumulate}: the batch size is that of all devices "
            "together. Change it, or the number of devices."
        )
    return batch_size // processes


def launch_ranks(devices: int, divide_batches: Callable[[int], object]) -> None:
    """Run this command in `devices` processes and exit as they do; return in each of them, or for one device.

    Args:
        divide_batches: divides the training's batches among a number of processes, or refuses to.

    Raises:
        UserError: as `divide_batches`, or if there are GPUs, but fewer than `devices`.
        SystemExit: with the exit code of all.
    """
    place = find_place()
    divide_batches(place.world_size if place else devices)
    if place is None and devices > 1:
        raise SystemExit(run_ranks(devices, sys.argv[1:]))


def student_batch_sizes(student: StudentOptions, devices: int) -> tuple[int, int]:
    """Labeled and unlabeled images per iteration on each of so many devices.

    Raises:
        UserError: if they cannot be divided, or leave ARP, which pairs images of one device, without a pair.
    """
    parts = student.accumulate
    labeled = batch_per_rank("student.batch_size", student.batch_size, devices, parts)
    unlabeled = batch_per_rank("student.unlabeled_batch_size", student.unlabeled_batch_size, devices, parts)
    if student.arp.fraction > 0 and student.arp.num_pairs(unlabeled // parts) == 0:
        in_parts = f" in {parts} parts each" if parts > 1 else ""
        raise UserError(
            f"student.unlabeled_batch_size: {student.unlabeled_batch_size} images on {devices} device(s)"
            f"{in_parts} "
            f"with student.arp.fraction={student.arp.fraction} leave ARP nothing to paste: it exchanges "
            "objects within pairs of unlabeled images that are computed together.\n"
            f"Expected at least {math.ceil(2 / student.arp.fraction)} images on each device, in each part. "
            "Change the batch size, the number of devices or student.accumulate; student.arp.fraction=0 "
            "trains without ARP."
        )
    return labeled, unlabeled
