"""`s4m ablation`: the paper's ablations, each row with several seeds; what rows share is done once."""

import os
import signal
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4m_pipeline import console
from s4m_pipeline.ablation.tables import TABLES, Row, Table, TableName
from s4m_pipeline.layout import experiment_folder
from s4m_pipeline.signals import answered
from stages.arguments import Config, Devices, Overrides

if TYPE_CHECKING:
    from s4m_pipeline.ablation.jobs import Job, Workers
    from s4m_pipeline.ablation.plan import Setting, Trial


def ablation(
    config: Config,
    tables: Annotated[
        str, typer.Option("--table", metavar="NAME,...", help=f"What to compare: {', '.join(TABLES)}.")
    ] = "components,control",
    seeds: Annotated[int, typer.Option(min=1, help="Repeat every row with seeds 0, 1, ...")] = 3,
    rows: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Only these rows.", show_default="all")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    train: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="For --table labels: annotations of all training images, relative to data.root.",
            show_default="refine.ground_truth",
        ),
    ] = None,
    overrides: Overrides = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the ablation.", show_default="work_dirs/<config name>-ablation"),
    ] = None,
    devices: Devices = 1,
) -> None:
    """Train and evaluate every row, and print its AP beside the paper's.

    What is finished is not done again: repeat the command after an interruption.
    """
    from s4m_pipeline.ablation.plan import Setting, plan_trials

    folder = experiment_folder(config)
    root = work_dir or folder.with_name(f"{folder.name}-ablation")
    setting = Setting(config, root, tuple(overrides or ()), train)
    plans = {
        name: plan_trials(setting, name, TABLES[name], picked, range(seeds))
        for name, picked in _choose(tables, rows).items()
    }

    from s4m_pipeline.ablation.jobs import Workers, jobs_of

    phases = jobs_of(setting, [trial for trials in plans.values() for trial in trials], devices)
    _announce(plans, phases)
    if dry_run:
        return
    for trials in plans.values():
        _link(trials)
    workers = Workers(jobs, lambda text: console.progress.print(text, soft_wrap=True))
    with answered(lambda number, _: workers.stop(number), signal.SIGTERM, signal.SIGINT):
        workers.run(phases)
    for name, trials in plans.items():
        _show(setting, name, TABLES[name], trials)
    _end_as(workers)


def _choose(tables: str, rows: str | None) -> dict[TableName, list[Row]]:
    """The rows wanted of each table; tables without any are left out."""
    asked = _names("--table", tables, TABLES)
    chosen = {name: list(table.rows) for name, table in TABLES.items() if name in asked}
    if rows is None:
        return chosen
    wanted = _names("--rows", rows, [row.name for known in chosen.values() for row in known])
    picked = {name: [row for row in known if row.name in wanted] for name, known in chosen.items()}
    return {name: some for name, some in picked.items() if some}


def _names(option: str, text: str, known: Collection[str]) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"{option}: no {', '.join(unknown)}; known here: {', '.join(known)}")
    return names


def _announce(plans: "dict[TableName, list[Trial]]", phases: "Sequence[dict[Path, Job]]") -> None:
    """Say what there is to do, and which settings make a row."""
    from rich.table import Table as Grid

    for name, trials in plans.items():
        grid = Grid("row", "settings", title=f"{name}: {TABLES[name].title}")
        for row in {trial.row.name: trial.row for trial in trials}.values():
            share = "" if row.labeled_percent is None else f"{row.labeled_percent} % labelled"
            grid.add_row(row.name, " ".join(row.settings) or share or "as in the config")
        console.progress.print(grid)
    for kind, phase in zip(("teachers", "generations of labels", "students"), phases, strict=True):
        done = sum(job.done() for job in phase.values())
        console.progress.print(f"{len(phase)} {kind}, {done} of them done")


def _link(trials: "Sequence[Trial]") -> None:
    """Let `TABLE/ROW-SEED` point to the folder with the result."""
    for trial in trials:
        trial.link.parent.mkdir(parents=True, exist_ok=True)
        half = trial.link.with_name(f".tmp-{trial.link.name}-{os.getpid()}")
        half.unlink(missing_ok=True)
        half.symlink_to(os.path.relpath(trial.result, trial.link.parent))
        half.replace(trial.link)


def _end_as(workers: "Workers") -> None:
    """Exit as a signal or a training that failed demands."""
    if workers.received:
        console.progress.print("Stopped by a signal; the same command goes on from there.")
        raise SystemExit(128 + workers.received)
    if workers.failed:
        raise SystemExit(1)


def _show(setting: "Setting", name: str, table: Table, trials: "Sequence[Trial]") -> None:
    """Print and write a table."""
    from rich.table import Table as Grid

    from s4m_pipeline.ablation.results import as_texts, collect, write_table

    rows = collect(trials)
    columns, cells = as_texts(table, rows, len({trial.seed for trial in trials}))
    grid = Grid(title=f"{table.title}\nAP in percent on data.{trials[0].split}; paper: {table.paper}")
    for place, column in enumerate(columns):
        grid.add_column(column, justify="right" if place else "left")
    for line in cells:
        grid.add_row(*line)
    console.result.print(grid)
    path = write_table(setting, name, table, trials, rows)
    console.result.print(f"{path}")
