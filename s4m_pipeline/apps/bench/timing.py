"""Timing of alternatives, in turn in one run: a busy machine then slows all of them alike."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text


def choose_device() -> torch.device:
    """The GPU, or else the CPU with one thread."""
    torch.set_num_threads(1)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """For the title of a table."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, 1 thread"


def now(device: torch.device) -> float:
    """Seconds: by the clock once the GPU has finished; on a CPU, processor time, without other work."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def time_in_turn(
    runs: Mapping[str, Callable[[], object]], device: torch.device, rounds: int = 5
) -> dict[str, float]:
    """Median seconds of each alternative, after one round of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            began = now(device)
            run()
            seconds[name].append(now(device) - began)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


_shown: list[dict[str, Any]] = []


def show(result: Table | str) -> None:
    """Print a table or a remark of a benchmark, and keep it for `taken`."""
    Console(width=150).print(result)
    if isinstance(result, str):
        _shown.append({"text": _plain(result)})
        return
    cells = [[_plain(cell) for cell in column.cells] for column in result.columns]
    _shown.append(
        {
            "title": _plain(result.title or ""),
            "columns": [_plain(column.header) for column in result.columns],
            "rows": [list(row) for row in zip(*cells, strict=True)],
        }
    )


def taken() -> list[dict[str, Any]]:
    """What has been shown since the last call: tables (`title`, `columns`, `rows`) and remarks (`text`)."""
    results = _shown.copy()
    _shown.clear()
    return results


def _plain(text: object) -> str:
    return Text.from_markup(str(text)).plain
