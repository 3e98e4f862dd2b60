"""All checks in order; a check that fails does not stop the others."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from s4m_pipeline.apps.doctor import machine, packages
from s4m_pipeline.apps.doctor.finding import Finding, run_check
from s4m_pipeline.apps.doctor.probe import Import, probe

if TYPE_CHECKING:
    from s4m_pipeline.apps.doctor.experiment import CheckedConfig

_NVIDIA_DEVICES = (Path("/dev/nvidia0"), Path("/dev/dxg"), Path("/proc/driver/nvidia/version"))


def diagnose(work_dir: Path, config: Path | None = None, overrides: Sequence[str] = ()) -> list[Finding]:
    """Check the installation, the machine and, if given, an experiment.

    Packages that may be broken are imported in a separate process.

    Args:
        work_dir: folder of the results; need not exist.
        config: the experiment's config, with `overrides` on top.
    """
    imports = probe()
    nvidia_device = any(path.exists() for path in _NVIDIA_DEVICES)
    findings = [
        *run_check("Python", packages.check_python),
        *run_check("torch", partial(packages.check_torch, imports)),
        *run_check("GPU", partial(packages.check_cuda, imports["torch"], nvidia_device)),
        *run_check("packages", partial(packages.check_imports, imports)),
        *run_check("mmcv operators", partial(packages.check_ops, imports)),
        *run_check("clashes", packages.check_clashes),
    ]
    experiment = None
    if config is not None:
        found, experiment = _read(config, overrides, imports)
        findings += found
        if experiment is not None:
            findings += _check(experiment)
    return [
        *findings,
        *run_check("work folder", partial(machine.check_file_system, work_dir)),
        *run_check("disk", partial(_check_disk, work_dir, experiment)),
        *run_check("shared memory", partial(_check_shared_memory, experiment)),
        *run_check("open files", machine.check_open_files),
    ]


def _read(
    config: Path, overrides: Sequence[str], imports: Mapping[str, Import]
) -> tuple[list[Finding], "CheckedConfig | None"]:
    broken = [name for name in ("torch", "mmengine", "mmcv", "sam2") if imports[name].error]
    if broken:
        return [Finding("config", "warn", f"not checked: fix {', '.join(broken)} first")], None
    from s4m_pipeline.apps.doctor.experiment import check_config

    return check_config(config, overrides)


def _check(experiment: "CheckedConfig") -> list[Finding]:
    from s4m_pipeline.apps.doctor import experiment as checks

    return [
        *run_check("data", partial(checks.check_data, experiment)),
        *run_check("cache.root", partial(checks.check_cache, experiment)),
        *run_check("SAM 2 weights", partial(checks.check_sam, experiment)),
        *run_check("init_from", partial(checks.check_init_from, experiment)),
        *run_check("loggers", partial(checks.check_loggers, experiment)),
    ]


def _check_disk(work_dir: Path, experiment: "CheckedConfig | None") -> Iterator[Finding]:
    if experiment is None:
        return machine.check_disk(work_dir, None)
    from s4m_pipeline.apps.doctor.experiment import disk_bytes

    return machine.check_disk(work_dir, disk_bytes(experiment))


def _check_shared_memory(experiment: "CheckedConfig | None") -> Iterator[Finding]:
    if experiment is None:
        return machine.check_shared_memory(None)
    from s4m_pipeline.apps.doctor.experiment import shared_bytes

    return machine.check_shared_memory(shared_bytes(experiment))
