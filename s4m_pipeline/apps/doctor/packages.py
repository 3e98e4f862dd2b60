"""Checks of what is installed: Python, packages that fail to import, packages that overwrite one another."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata

from s4m_pipeline.apps.doctor.finding import Finding, install, normalized, required
from s4m_pipeline.apps.doctor.probe import Import
from s4m_pipeline.models.registry import compile_command

PYTHON = ((3, 11), (3, 14))
"""First version that works, first that does not."""

TORCHVISION_AHEAD = 15
"""torchvision 0.(N + 15) is built for torch 2.N."""
NEWEST_TORCHVISION = 29
"""torchvision 0.29 works with torch 2.14 and with later ones."""

_SINGLE = {
    "mmengine": ("onedl-mmengine", "MMEngine"),
    "mmcv": ("onedl-mmcv", "MMCV"),
    "mmdet": ("onedl-mmdetection", "MMDetection"),
    "sam2": ("rf-sam-2", "SAM 2"),
    "zarr": ("zarr", "zarr"),
    "pycocotools.mask": ("pycocotools", "pycocotools"),
    "cv2": ("opencv-python", "OpenCV"),
    "numpy": ("numpy", "numpy"),
}
"""Module: its distribution, and its name in the report."""

CLASHES = {
    "rf-sam-2": ("sam2", "sam-2"),
    "onedl-mmdetection": ("mmdet",),
    "onedl-mmengine": ("mmengine", "mmengine-lite"),
    "onedl-mmcv": ("mmcv", "mmcv-full", "mmcv-lite"),
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python"),
}
"""Distributions that install the same files as one of ours: the later one has overwritten the earlier one."""


def check_python() -> Iterator[Finding]:
    """The interpreter's version."""
    found = ".".join(map(str, sys.version_info[:3]))
    if PYTHON[0] <= sys.version_info[:2] < PYTHON[1]:
        yield Finding("Python", "ok", f"{found}, {sys.executable}")
    else:
        text = f"{found} ({sys.executable}); 3.11, 3.12 or 3.13 is needed, and this package in it"
        yield Finding("Python", "fix", text, "python3.12 -m venv .venv")


def check_torch(imports: Mapping[str, Import]) -> Iterator[Finding]:
    """torch and torchvision can be imported, and their versions fit."""
    torch, vision = imports["torch"], imports["torchvision"]
    if torch.error:
        yield Finding("torch", "fix", _failure(torch), install("torch", "torchvision"))
        return
    yield Finding("torch", "ok", torch.version)
    if vision.error:
        text = f"{_failure(vision)}; a build for torch {torch.version} is needed"
        yield Finding("torchvision", "fix", text, install("torch", "torchvision"))
    elif _minor(vision.version) != min(_minor(torch.version) + TORCHVISION_AHEAD, NEWEST_TORCHVISION):
        text = f"{vision.version} is not built for torch {torch.version}"
        yield Finding("torchvision", "fix", text, install("torch", "torchvision"))
    else:
        yield Finding("torchvision", "ok", vision.version)


def check_imports(imports: Mapping[str, Import]) -> Iterator[Finding]:
    """The other packages can be imported, in the versions that this project names."""
    for module, (distribution, name) in _SINGLE.items():
        found = imports[module]
        if found.error:
            yield _import_failure(name, found, distribution, imports)
            continue
        version = _installed_version(distribution) or found.version
        if _satisfies(version, required(distribution)):
            yield Finding(name, "ok", f"{distribution} {version}")
        else:
            text = f"{distribution} {version}; {required(distribution)} is needed"
            yield Finding(name, "fix", text, install(distribution))


def _import_failure(name: str, found: Import, distribution: str, imports: Mapping[str, Import]) -> Finding:
    """A package that fails because torch does is not reinstalled for it."""
    if imports["torch"].error and not found.missing and distribution not in ("zarr", "pycocotools", "numpy"):
        return Finding(name, "fix", f"{_failure(found)}; fix torch first", install("torch", "torchvision"))
    return Finding(name, "fix", _failure(found), install(distribution))


def check_ops(imports: Mapping[str, Import]) -> Iterator[Finding]:
    """mmcv's compiled operators, or their replacement in plain torch."""
    ops, on_gpu = imports["mmcv._ext"], imports["torch"].facts.get("cuda", False)
    if ops.error is None:
        yield Finding("mmcv operators", "ok", "compiled")
    elif imports["mmcv"].error:
        yield Finding("mmcv operators", "warn", "not checked: mmcv cannot be imported")
    elif not ops.missing:
        yield Finding(
            "mmcv operators", "fix", f"compiled for a different torch: {ops.error}", compile_command()
        )
    elif on_gpu:
        text = "not compiled: deformable attention is a Triton kernel if that works here, else plain torch"
        yield Finding("mmcv operators", "warn", text, compile_command())
    else:
        yield Finding("mmcv operators", "ok", "not compiled; the implementation in plain torch is used")


def check_clashes() -> Iterator[Finding]:
    """Installed distributions that overwrite files of ours."""
    installed = _installed()
    clashing = False
    for ours, others in CLASHES.items():
        present = [other for other in others if other in installed]
        if not present:
            continue
        clashing = True
        text = f"{', '.join(present)} and {ours} install the same files" + (
            "" if ours in installed else f"; {ours} is needed"
        )
        harmless = ours == "opencv-python"
        names = " ".join([*present, ours] if ours in installed else present)
        command = f"{sys.executable} -m pip uninstall -y {names} && {install(ours)}"
        yield Finding("clash", "warn" if harmless else "fix", text, command)
    if not clashing:
        yield Finding("clashes", "ok", "no packages that overwrite each other")


def check_cuda(torch: Import, nvidia_device: bool) -> Iterator[Finding]:
    """The GPUs that torch can use.

    Args:
        nvidia_device: whether the system has an NVIDIA device file.
    """
    if torch.error:
        yield Finding("GPU", "warn", "not checked: torch cannot be imported")
        return
    facts = torch.facts
    build, driver = facts["cuda_build"], facts["driver"]
    if facts["cuda"]:
        for place, gpu in enumerate(facts["gpus"]):
            free, total = gpu["free_bytes"] / 1e9, gpu["total_bytes"] / 1e9
            text = (
                f"{gpu['name']}, {total:.0f} GB, {free:.0f} GB free; CUDA {build}, driver for {_cuda(driver)}"
            )
            busy = free < 0.5 * total
            yield Finding(
                f"GPU {place}",
                "warn" if busy else "ok",
                text + ("; in use by others" if busy else ""),
                "nvidia-smi" if busy else None,
            )
    elif not nvidia_device:
        yield Finding("GPU", "ok", "none: runs use the CPU, which is practical with the small models only")
    elif build is None:
        text = "this machine has one, but torch is built without CUDA"
        yield Finding("GPU", "fix", text, install("torch", "torchvision"))
    elif driver and driver < _cuda_number(build):
        text = (
            f"the driver supports CUDA up to {_cuda(driver)}, torch is built for {build}: update the driver"
        )
        yield Finding("GPU", "fix", text, "sudo ubuntu-drivers install")
    else:
        text = "this machine has one, but torch cannot use it: load its driver; unset CUDA_VISIBLE_DEVICES"
        yield Finding("GPU", "fix", text, "nvidia-smi; unset CUDA_VISIBLE_DEVICES")


def _failure(found: Import) -> str:
    return "not installed" if found.missing else f"cannot be imported ({found.error})"


def _minor(version: str) -> int:
    return int(version.split(".")[1])


def _cuda(driver: int) -> str:
    return f"{driver // 1000}.{driver % 1000 // 10}"


def _cuda_number(version: str) -> int:
    major, minor = version.split(".")[:2]
    return 1000 * int(major) + 10 * int(minor)


def _installed() -> set[str]:
    """Normalized names of all installed distributions; a damaged record has no name."""
    names: Iterable[str | None] = (found.metadata["Name"] for found in metadata.distributions())
    return {normalized(name) for name in names if name}


def _installed_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _satisfies(version: str, requirement: str) -> bool:
    """Whether a version meets the bounds `>=` and `<` of a requirement, by its numbers alone."""
    for operator, bound in re.findall(r"(>=|<)\s*([\d.]+)", requirement):
        if (_numbers(version) >= _numbers(bound)) != (operator == ">="):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]
    return tuple(numbers + [0] * (3 - len(numbers)))
