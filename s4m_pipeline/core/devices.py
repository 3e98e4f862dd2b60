"""Whether this process has a GPU, and its name."""

from pathlib import Path

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
