"""`s4m plan`: time and disk of an experiment before it runs, and where each figure comes from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import experiment_folder
from s4m_pipeline.experiment.run_record import duration_text
from s4m_pipeline.planning.operations import GPUS, measured_speed, peak_of
from s4m_stages.arguments import Config, Overrides, WorkDir

if TYPE_CHECKING:
    from s4m_pipeline.planning.costs import Cost


def plan(
    config_path: Config,
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Number of unlabeled images.", show_default="those of the config"),
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs.")] = 1,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Kind of the GPUs, to count for: {', '.join(GPUS)}."),
    ] = None,
    bench: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Count for the device of a file of `s4m bench limits --json`."),
    ] = None,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
) -> None:
    """Print time, disk and what limits, for each stage; nothing is run.

    Speeds that the experiment has recorded come first (with --gpu, only those of such a GPU). Otherwise, the
    operations of the networks are counted: at a GPU's peak, which makes times a lower bound, or at a measured
    speed (--bench). Validations and reading of images are not counted.
    """
    if gpu is not None and bench is not None:
        raise typer.BadParameter("--gpu and --bench: give one of them")
    from s4m_pipeline.planning.costs import Costs
    from s4m_pipeline.planning.estimates import count_unlabeled
    from s4m_pipeline.planning.plan import Experiment

    options, config = load_experiment(config_path, overrides or [])
    number = images or count_unlabeled(options.data)
    if number == 0:
        raise UserError("The config has no unlabeled images that are here.\nGive their number: --images N.")
    experiment = Experiment(
        config_path=config_path,
        config=config,
        options=options,
        folder=experiment_folder(config_path, work_dir),
        devices=gpus,
    )
    speed = peak_of(gpu) if gpu is not None else measured_speed(bench) if bench is not None else None
    console.result.print(f"{number:,} unlabeled images")
    for cost in Costs(experiment, number, speed, gpu or "").stages():
        _print(cost)


def _print(cost: "Cost") -> None:
    from s4m_pipeline.planning.estimates import GB

    time = "time unknown"
    if cost.hours is not None:
        seconds = 3600 * cost.hours
        time = f"{_span(seconds)} on {cost.gpus} device(s), {_span(cost.gpus * seconds)} in all"
    console.result.print(f"{cost.stage}: {time} ({cost.hours_from})", soft_wrap=True)
    gigabytes = cost.disk_bytes / GB
    disk = f"{gigabytes:,.0f}" if gigabytes >= 100 else f"{gigabytes:.2g}"
    console.result.print(f"    disk {disk} GB ({cost.disk_from})", soft_wrap=True)
    console.result.print(f"    limit: {cost.limit}", soft_wrap=True)


def _span(seconds: float) -> str:
    return duration_text(seconds) if seconds >= 1 else "under 1 s"
