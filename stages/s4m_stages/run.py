"""All stages of an experiment in order: each is skipped, started, resumed or re-run as its inputs require."""

import shlex
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import BEST, CONTROL, REPORT, STUDENT, experiment_folder
from s4m_pipeline.core.processes import call
from s4m_pipeline.experiment.evaluation_file import current_results
from s4m_pipeline.experiment.generation_log import GenerationLog
from s4m_pipeline.planning.estimates import GB, disk_bytes, time_left
from s4m_pipeline.planning.plan import (
    STAGES,
    Experiment,
    Plan,
    Planner,
    StageName,
    require_idle,
    require_overwrite,
)
from s4m_pipeline.train.launch import find_place, student_batch_sizes
from s4m_stages.arguments import Config, Overrides, OverwriteChanged, WorkDir


def run(
    config_path: Config,
    first: Annotated[StageName, typer.Option("--from", help="Begin with this stage.")] = "teacher",
    last: Annotated[StageName, typer.Option("--until", help="End with this stage.")] = "report",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be done, and what it takes.")
    ] = False,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
    devices: Annotated[int, typer.Option(min=1, help="Processes to train in, one for each GPU.")] = 1,
    overwrite: OverwriteChanged = False,
    control: Annotated[
        bool,
        typer.Option("--control", help="Also train without unlabeled images, to compare the student with."),
    ] = False,
) -> None:
    """Do every stage that is not finished: teacher, pseudo-labels, student, evaluation, report.

    Ends with a verdict: whether the student is better than its teacher, and if not, the likely causes.

    A finished stage is skipped as long as its data, settings and inputs stay the same; an interrupted one is
    resumed. If they changed, nothing is deleted without --overwrite.
    """
    if find_place() is not None:
        raise UserError(
            "`s4m run` is one command for all devices, and torchrun or srun has started several of it.\n"
            "Call it once, with --devices N; on several machines, start each training with torchrun or "
            "srun: torchrun ... -m s4m_stages pretrain-teacher CONFIG."
        )
    options, config = load_experiment(config_path, overrides or [])
    experiment = Experiment(
        config_path=config_path,
        config=config,
        options=options,
        folder=experiment_folder(config_path, work_dir),
        devices=devices,
    )
    chosen = [
        stage for stage in STAGES[STAGES.index(first) : STAGES.index(last) + 1] if stage != CONTROL or control
    ]
    if not chosen:
        raise typer.BadParameter(f"--until {last} comes before --from {first}")
    require_idle(experiment.folder, chosen)
    planner = Planner(experiment)
    plans = planner.plan_all(chosen)
    if any(plan.stage == STUDENT and plan.arguments is not None for plan in plans):
        student_batch_sizes(options.require_student(), devices)  # refused before the teacher is trained
    if dry_run:
        _print_plan(experiment, plans, len(planner.unlabeled))
    if not overwrite:
        require_overwrite(experiment.folder, plans)
    if not dry_run:
        _run_stages(experiment, chosen, overrides or [], overwrite)


def _run_stages(
    experiment: Experiment, chosen: Sequence[StageName], overrides: Sequence[str], overwrite: bool
) -> None:
    """Plan each stage once those before it are done, and do it."""
    for place, stage in enumerate(chosen):
        plan, *following = Planner(experiment).plan_all(chosen[place:])
        console.progress.print(Text.assemble((stage, "bold"), f": {plan.text}"), soft_wrap=True)
        if not overwrite:
            require_overwrite(experiment.folder, [plan, *following])
        if plan.arguments is not None:
            _call(plan.arguments, experiment, overrides)
    if "evaluate" in chosen:
        _print_summary(experiment, overrides)


def _call(command: Sequence[str], experiment: Experiment, overrides: Sequence[str]) -> None:
    """Run a stage in a process of its own; end as it does when it fails."""
    arguments = [*command, *(word for override in overrides for word in ("--set", override))]
    if command[0] not in ("report", "evaluate"):
        arguments += ["--work-dir", str(experiment.folder)]
    call(arguments)


def _print_plan(experiment: Experiment, plans: Sequence[Plan], num_unlabeled: int) -> None:
    for plan in plans:
        console.result.print(f"{plan.stage}: {plan.text}{time_left(experiment, plan)}")
    disk_gb = disk_bytes(experiment.options, experiment.config, num_unlabeled) / GB
    console.result.print(f"disk for checkpoints and pseudo-labels: about {disk_gb:.1f} GB")


def _print_summary(experiment: Experiment, overrides: Sequence[str]) -> None:
    """The table at the end: the AP of each training, and the labels' quality; and what to do next."""
    from rich.table import Table

    from s4m_pipeline.evaluation.verdict import kept_verdict
    from s4m_pipeline.experiment.best import best_weights

    table = Table("", "percent", title=f"{experiment.folder} on data.{experiment.split}")
    for stage, result in current_results(experiment.folder, experiment.split).items():
        table.add_row(f"{stage} AP", f"{result['AP']:.1f}" if result.get("AP") is not None else "-")
    log = GenerationLog(experiment.folder / STUDENT)
    quality = log.entries[0].get("quality", {}) if log.entries else {}
    for name, title in (("SQ before", "SQ of the teacher's masks"), ("SQ after", "SQ after refinement")):
        if quality.get(name) is not None:
            table.add_row(title, f"{quality[name]:.1f}")
    console.result.print(table)
    for line in kept_verdict(experiment.folder):
        console.result.print(line, soft_wrap=True, markup=False)
    if (experiment.folder / BEST).is_file():
        best, reason = best_weights(experiment.folder)
        console.result.print(f"{best}: {reason}", soft_wrap=True)
    report = experiment.folder / REPORT
    if report.exists():
        console.result.print(f"{report}")
    if (experiment.folder / BEST).is_file():
        _print_next(experiment, overrides)


def _print_next(experiment: Experiment, overrides: Sequence[str]) -> None:
    """The commands that use the weights; IMAGES and DIR are the user's to replace."""
    elsewhere = experiment.folder.resolve() != experiment_folder(experiment.config_path).resolve()
    weights = [str(experiment.folder / BEST)] if elsewhere else []
    sets = [word for setting in overrides for word in ("--set", setting)]
    for start, command, target in (("Next:", ["predict"], "IMAGES"), ("     ", ["export", "mmdet"], "DIR")):
        words = ["s4m", *command, str(experiment.config_path), *weights, target, *sets]
        console.result.print(f"{start} {shlex.join(words)}", soft_wrap=True)
