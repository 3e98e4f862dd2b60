"""The GPU of this process, if it has one, and its share of the cores."""

import os
from collections.abc import Mapping
from pathlib import Path

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


_DEVICE_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Of NVIDIA's driver, AMD's, and either of them in Windows' Linux: without these torch finds no GPU."""


def has_gpu() -> bool:
    """As `torch.cuda.is_available()`, without importing torch, which takes seconds, where no driver is."""
    if not any(Path(name).exists() for name in _DEVICE_FILES):
        return False
    import torch

    return torch.cuda.is_available()


def device_name() -> str:
    """Name of the GPU, or "cpu"."""
    if not has_gpu():
        return "cpu"
    import torch

    return torch.cuda.get_device_name()
