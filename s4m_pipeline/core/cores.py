"""How many cores a process has, beside others of the same command on this machine."""

import os
from collections.abc import Mapping

_SIBLINGS = "LOCAL_WORLD_SIZE"  # as torchrun names it


def own_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Cores of this process: those that it may run on, divided among the processes of a fan-out."""
    return max(1, len(os.sched_getaffinity(0)) // int(environment.get(_SIBLINGS, 1)))


def divided(processes: int) -> dict[str, str]:
    """Environment of each of so many processes of a fan-out; threads of torch and NumPy follow it.

    OMP_NUM_THREADS stays as it is where it is set.
    """
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, own_cores() // processes))
    return {"OMP_NUM_THREADS": threads, _SIBLINGS: str(processes)}
