"""`s4m bench`: time our implementations and their alternatives, in turn, in one run."""

import importlib
import json
import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Benchmark(StrEnum):
    """One module of `s4m_pipeline/apps/bench` each."""

    sam = "sam"
    cache = "cache"
    cache_scale = "cache-scale"
    growth = "growth"
    teacher_step = "teacher-step"
    refine = "refine"
    student_step = "student-step"
    loss = "loss"
    window = "window"
    limits = "limits"


def bench(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help=f"What to measure: all, or {', '.join(Benchmark)}.")
    ],
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all tables to FILE, as JSON.")
    ] = None,
) -> None:
    """Measure ratios between alternatives on this machine."""
    if unknown := set(names) - {"all", *Benchmark}:
        raise typer.BadParameter(f"{', '.join(unknown)}: expected all, or {', '.join(Benchmark)}")
    measured = {}
    for name in Benchmark if "all" in names else map(Benchmark, names):
        began = (time.perf_counter(), sum(os.times()[:4]))
        importlib.import_module(f"s4m_pipeline.apps.bench.{name.name}").main()
        from s4m_pipeline.apps.bench.timing import taken

        measured[name.value] = {
            "seconds": round(time.perf_counter() - began[0], 1),
            "processor_seconds": round(sum(os.times()[:4]) - began[1], 1),  # with those of ended processes
            "results": taken(),
        }
        if json_path is not None:  # after each one, as they take minutes
            json_path.write_text(json.dumps(measured, indent=1), encoding="utf-8")
