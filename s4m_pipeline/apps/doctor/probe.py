"""Imports in a separate process: a package that raises or crashes ends that process only."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from s4m_pipeline.apps.doctor.finding import first_line

TIMEOUT_S = 120

FAMILIES = (
    ("torch", "torchvision", "mmengine", "mmcv", "mmcv._ext", "mmdet", "sam2"),
    ("numpy", "zarr", "pycocotools.mask", "cv2"),
)
"""Modules to import; those that import each other share a process."""

# Runs with -P: packages are imported from where they are installed, not from the current folder.
_PROGRAM = """
import ctypes, importlib, json, os, sys
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what packages print while they are imported must not mix with the answers
def say(**answer):
    print(json.dumps(answer), file=out, flush=True)
def driver():
    number = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except OSError:  # no driver
        pass
    return number.value
def torch_facts(torch):
    facts = {"cuda_build": torch.version.cuda, "cuda": torch.cuda.is_available(), "driver": driver()}
    facts["gpus"] = []
    if facts["cuda"]:
        for place in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(place)
            free, total = torch.cuda.mem_get_info(place)
            facts["gpus"].append({"name": gpu.name, "total_bytes": total, "free_bytes": free})
    return facts
for name in sys.argv[1:]:
    say(module=name, state="begun")
    try:
        module = importlib.import_module(name)
        facts = torch_facts(module) if name == "torch" else {}
        say(module=name, state="done", version=str(getattr(module, "__version__", "")), facts=facts)
    except BaseException as error:
        say(module=name, state="failed", error=type(error).__name__ + ": " + str(error),
            missing=isinstance(error, ModuleNotFoundError) and error.name == name)
"""


@dataclass(frozen=True)
class Import:
    """Result of importing one module."""

    module: str
    version: str = ""
    error: str | None = None
    """None: it can be imported."""
    missing: bool = False
    """It is not installed."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Of torch: `cuda_build`, `cuda`, `driver` (as 13000 for 13.0), `gpus`."""


def probe(families: Sequence[Sequence[str]] = FAMILIES) -> dict[str, Import]:
    """Import every module, each family in its own process, in parallel."""
    with ThreadPoolExecutor(len(families)) as pool:
        answers = list(pool.map(_probe_family, families))
    return {name: result for family in answers for name, result in family.items()}


def _probe_family(modules: Sequence[str]) -> dict[str, Import]:
    """Import modules in turn; after one that ends the process, import the rest in a new one."""
    results: dict[str, Import] = {}
    while rest := [name for name in modules if name not in results]:
        ended = _probe_once(rest, results)
        if ended is not None:
            culprit = next(name for name in rest if name not in results)
            results[culprit] = Import(culprit, error=ended)
    return results


def _probe_once(modules: Sequence[str], results: dict[str, Import]) -> str | None:
    """Fill `results`; returns how the process ended if it was before the last module."""
    command = [sys.executable, "-P", "-c", _PROGRAM, *modules]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        output, ended = done.stdout, _ending(done.returncode, done.stderr)
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        ended = f"not finished after {TIMEOUT_S} s"
    for line in output.splitlines():
        answer = json.loads(line)
        name = answer["module"]
        if answer["state"] == "done":
            results[name] = Import(name, answer["version"], facts=answer["facts"])
        elif answer["state"] == "failed":
            results[name] = Import(name, error=first_line(answer["error"]), missing=answer["missing"])
    return None if modules[-1] in results else ended


def _ending(code: int, stderr: str) -> str:
    if code < 0:
        return f"the import ends Python with {signal.Signals(-code).name}"
    last = stderr.strip().rpartition("\n")[2]
    return f"the import ends Python with exit code {code}: {first_line(last)}"
