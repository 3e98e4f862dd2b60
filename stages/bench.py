"""`s4m bench`: time our paths against their alternatives, in turn, in one run."""

import importlib
from enum import StrEnum
from typing import Annotated

import typer


class Benchmark(StrEnum):
    """One module of `benchmarks/` each."""

    sam = "sam"
    cache = "cache"
    teacher_step = "teacher-step"
    refine = "refine"
    prompts = "prompts"
    arp = "arp"
    student_step = "student-step"
    loss = "loss"
    window = "window"


def bench(
    name: Annotated[Benchmark, typer.Argument(help="What to measure; see docs/benchmarks.")],
) -> None:
    """Measure ratios between alternatives on this machine."""
    importlib.import_module(f"benchmarks.{name.name}").main()
