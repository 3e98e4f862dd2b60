"""The `s4m` command: a table of commands, loaded when one is chosen, and how failures are reported.

To add a command, add a line to `COMMANDS`. The function (or Typer app) named there lives in a module of
`stages` that imports heavy packages inside function bodies only, so that `s4m COMMAND --help` stays quick.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated. A job that can save its state on
a signal does so and raises `SystemExit(143)` (or 130), which passes through here untouched.
"""

import importlib
import os
import sys
import traceback
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from s4m_cache.errors import CacheError
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.explain import explain
from s4m_pipeline.core.startup import leave_out_unused

_DEBUG = "S4M_DEBUG"


class Command(NamedTuple):
    """One line of the command table."""

    target: str
    """`module:name` of a function with Typer annotations, or of a Typer app with commands of its own."""
    help: str
    """The line shown in the list of commands."""


COMMANDS = {
    "demo": Command("s4m_stages.demo:demo", "Run all stages on drawn scenes, in minutes and without a GPU."),
    "run": Command("s4m_stages.run:run", "Run all stages of an experiment; finished ones are skipped."),
    "plan": Command("s4m_stages.plan:plan", "Estimate hours and disk, for any number of images and GPUs."),
    "doctor": Command(
        "s4m_stages.doctor:doctor", "Check installation, machine or experiment, and say how to fix it."
    ),
    "data": Command("s4m_stages.data:app", "Make, check and split data sets in COCO format."),
    "init": Command("s4m_stages.init:init", "Write an experiment for your own images and labels."),
    "config": Command("s4m_stages.config:config", "List every setting of an experiment."),
    "pretrain-teacher": Command(
        "s4m_stages.pretrain_teacher:pretrain_teacher", "Train a teacher on labeled images."
    ),
    "refine": Command("s4m_stages.refine:refine", "Make pseudo-labels with teacher and SAM 2, in shards."),
    "train-student": Command(
        "s4m_stages.train_student:train_student", "Train a student on labels and pseudo-labels."
    ),
    "evaluate": Command("s4m_stages.evaluate:evaluate", "Measure the mask AP of a checkpoint."),
    "predict": Command("s4m_stages.predict:predict", "Predict any images: pictures and COCO results."),
    "export": Command("s4m_stages.export:app", "Export weights and pseudo-labels for other programs."),
    "report": Command("s4m_stages.report:app", "Write a page about an experiment, or draw a picture."),
    "suggest": Command("s4m_stages.suggest:suggest", "Choose the unlabeled images to label next."),
    "ablation": Command(
        "s4m_stages.ablation:ablation", "Run a table of the paper's ablations, with several seeds."
    ),
    "cache": Command(
        "s4m_stages.cache:app", "Inspect, check and fix a pseudo-label cache, and import labels."
    ),
    "reproduce": Command(
        "s4m_stages.reproduce:reproduce", "Run an experiment of the paper, from raw files to a table."
    ),
    "bench": Command("s4m_stages.bench:bench", "Run benchmarks: this implementation and its alternatives."),
}


class _LazyGroup(TyperGroup):
    """Lists commands from the table alone and imports a command's module only when that command is chosen."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, listed, rest = super().resolve_command(ctx, args)
        if name is None:  # while completing a command that is not fully typed
            return name, listed, rest
        return name, _load(COMMANDS[name]), rest


def _load(command: Command) -> Any:
    module_name, _, attribute = command.target.partition(":")
    target = getattr(importlib.import_module(module_name), attribute)
    if isinstance(target, typer.Typer):
        return get_group(target)
    single = typer.Typer(add_completion=False)
    single.command()(target)
    return get_command(single)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"s4m {version('s4m-pipeline')}")
        raise typer.Exit


def _global_options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Semi-supervised instance segmentation with SAM 2, as an offline pipeline."""
    console.progress.quiet = quiet
    if debug:
        os.environ[_DEBUG] = "1"  # also for the commands that this one runs


def build_app() -> typer.Typer:
    """The Typer app with one entry for each line of the command table."""
    app = typer.Typer(cls=_LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_global_options)
    for name, command in COMMANDS.items():
        app.command(name, help=command.help)(lambda: None)
    return app


def main() -> None:
    """Run `s4m`; a fault that the user can fix becomes a message, any other a short traceback."""
    leave_out_unused()
    try:
        build_app()(prog_name="s4m")
    except Exception as error:
        message = str(error) if isinstance(error, (UserError, CacheError)) else explain(error)
        if os.environ.get(_DEBUG):
            traceback.print_exc()
        elif message is None:
            traceback.print_exc(limit=-6)
        console.error.print(
            message or "This is a bug in s4m. Please report it with the command and the lines above."
        )
        sys.exit(1)
