"""All stages of an experiment in order: each is skipped, resumed, done or done again as its inputs say."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args

import typer
from rich.text import Text

from s4m_pipeline import console
from s4m_pipeline.children import call
from s4m_pipeline.engine.launch import find_place
from s4m_pipeline.errors import UserError
from s4m_pipeline.layout import (
    CACHE,
    GENERATIONS,
    METRICS,
    REPORT,
    STUDENT,
    TEACHER,
    WEIGHTS,
    experiment_folder,
)
from s4m_pipeline.options.experiment import Options, load_experiment
from stages import pretrain_teacher, train_student
from stages.arguments import Config, Overrides, WorkDir
from stages.artifacts import changes, read_run, teacher_weights

if TYPE_CHECKING:
    from s4m_pipeline.student.generations import GenerationLog

StageName = Literal["teacher", "refine", "student", "evaluate", "report"]
STAGES: tuple[StageName, ...] = get_args(StageName)


class Plan(NamedTuple):
    """What is to become of a stage."""

    why: str
    commands: list[list[str]]
    """Arguments of `s4m`, without those that all stages share; none: the stage is done."""


@dataclass(frozen=True)
class Experiment:
    """What is run, and where."""

    config: Path
    folder: Path
    options: Options
    parts: dict[str, Any]
    devices: int

    @property
    def split(self) -> Literal["val", "test"]:
        """What teacher and student are compared on."""
        return "val" if self.options.data.test is None else "test"


def run(
    config: Config,
    first: Annotated[StageName, typer.Option("--from", help="Begin with this stage.")] = "teacher",
    last: Annotated[StageName, typer.Option("--until", help="End with this stage.")] = "report",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, and what it takes.")
    ] = False,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
    devices: Annotated[int, typer.Option(min=1, help="Processes to train in, one for each GPU.")] = 1,
) -> None:
    """Do every stage that is not done yet: teacher, pseudo-labels, student, evaluation, report.

    A stage that is finished and whose data, settings and inputs are as they were is skipped; one that was
    interrupted goes on; one whose inputs changed is done again, and so are those after it.
    """
    if find_place() is not None:
        raise UserError(
            "`s4m run` is one command for all devices, and torchrun or srun has started several of it.\n"
            "Call it once, with --devices N; on several machines, run stage by stage: see docs/configs.md."
        )
    options, parts = load_experiment(config, overrides or [])
    experiment = Experiment(config, experiment_folder(config, work_dir), options, parts, devices)
    chosen = STAGES[STAGES.index(first) : STAGES.index(last) + 1]
    if not chosen:
        raise typer.BadParameter(f"--until {last} comes before --from {first}")
    if options.student is not None and "student" in chosen and not _lacks_images(options):
        train_student.shares_of_batch(options.student, devices)  # rather than once the teacher is trained
    if dry_run:
        _foretell(experiment, chosen)
        return
    for name in chosen:
        plan = PLANS[name](experiment)
        console.progress.print(Text.assemble((name, "bold"), f": {plan.why}"), soft_wrap=True)
        for command in plan.commands:
            _call(command, experiment, overrides or [])
    if "evaluate" in chosen:
        _print_summary(experiment)


def _call(command: Sequence[str], experiment: Experiment, overrides: Sequence[str]) -> None:
    """Run a stage in a process of its own; end as it does when it fails."""
    arguments = [*command, *(word for override in overrides for word in ("--set", override))]
    if command[0] not in ("report", "evaluate"):
        arguments += ["--work-dir", str(experiment.folder)]
    call(arguments)


def _plan_teacher(experiment: Experiment) -> Plan:
    options = experiment.options
    inputs = pretrain_teacher.load_inputs(options)
    now = pretrain_teacher.what_it_depends_on(options, experiment.parts, inputs)
    return _plan_training("pretrain-teacher", TEACHER, experiment, now)


def _plan_student(experiment: Experiment) -> Plan:
    options = experiment.options
    if options.student is None:
        return Plan("the config has no group `student`", [])
    if _lacks_images(options):
        return Plan("there are no unlabelled images to learn from", [])
    if others := _other_labels(experiment):
        why = f"done again, because its labels were made of something else: {'; '.join(others[:3])}"
        return Plan(why, [[*_training("train-student", experiment), "--overwrite"]])
    return _plan_training("train-student", STUDENT, experiment, _student_depends_on(experiment))


def _lacks_images(options: Options) -> bool:
    return options.data.unlabeled is None and (options.student is None or options.student.source == "cache")


def _log(experiment: Experiment) -> "GenerationLog":
    """Which labels the student began with, and took since."""
    return train_student.generation_log(experiment.folder / STUDENT, anew=False)


def _other_labels(experiment: Experiment) -> list[str]:
    """In what labels that would be made now differ from those that the student began with."""
    from cache.fingerprint import explain

    begun_with = _log(experiment).fingerprint
    return explain(begun_with, _label_fingerprint(experiment)) if begun_with else []


def _student_depends_on(experiment: Experiment) -> tuple[dict[str, Any], dict[str, str]]:
    from s4m_pipeline.data.labelled import load_labelled
    from s4m_pipeline.sam import load_configured_sam

    options = experiment.options
    train, val = load_labelled(options.data)
    sam = load_configured_sam(options.sam) if options.require_student().distill else None
    return train_student.what_it_depends_on(
        options, experiment.parts, experiment.folder, train, val, _log(experiment).fingerprint, sam
    )


def _plan_training(
    command: str, stage: str, experiment: Experiment, now: tuple[dict[str, Any], dict[str, str]]
) -> Plan:
    arguments = _training(command, experiment)
    record = read_run(experiment.folder / stage)
    if record is None:
        return Plan("not done yet", [arguments])
    if differing := changes(record, *now):
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        return Plan(f"done again, because of {'; '.join(differing[:3])}{more}", [[*arguments, "--overwrite"]])
    if record["status"] != "finished":
        return Plan(f"goes on ({record['status']} before)", [arguments])
    return Plan(f"done (validation AP {record['result'].get('AP') or 0:.1f})", [])


def _training(command: str, experiment: Experiment) -> list[str]:
    return [command, str(experiment.config), "--devices", str(experiment.devices)]


def _plan_refine(experiment: Experiment) -> Plan:
    from cache.fingerprint import explain
    from cache.generations import current_number, generations, made_with

    options, root = experiment.options, experiment.folder / CACHE
    if options.student is not None and options.student.source == "labeled":
        return Plan("not needed: student.source is 'labeled'", [])
    if _lacks_images(options):
        return Plan("the config has no data.unlabeled", [])
    fingerprint = _label_fingerprint(experiment)
    log = _log(experiment)
    if log.fingerprint == fingerprint and not _student_begins_anew(experiment):
        return Plan(f"done (gen-{log.first:04d}, which the student began with)", [])
    arguments = ["refine", str(experiment.config)]
    known = generations(root)
    if not known:
        return Plan("not done yet", [arguments])
    if options.student is not None:  # the gate compares teachers of one training; this one begins anew
        arguments += ["--set", "student.gate=off"]
    if generation := made_with(root, fingerprint):
        if generation.published() is not None and generation.number == current_number(root):
            return Plan(f"done ({generation.name})", [])
        return Plan(f"{generation.name} goes on", [[*arguments, "-g", str(generation.number)]])
    why = "because of " + "; ".join(explain(known[-1].spec.fingerprint, fingerprint)[:3])
    if log.fingerprint == fingerprint:
        why = "for the student to begin anew: what is published now was made in its training"
    return Plan(f"done again, {why}", [[*arguments, "-g", str(known[-1].number + 1)]])


def _student_begins_anew(experiment: Experiment) -> bool:
    record = read_run(experiment.folder / STUDENT)
    return record is None or bool(changes(record, *_student_depends_on(experiment)))


def _label_fingerprint(experiment: Experiment) -> dict[str, str | int | float | bool | None]:
    """What labels by the teacher, SAM and settings of now are made of."""
    from s4m_pipeline.refine.inputs import load_inputs

    inputs = load_inputs(experiment.options, experiment.parts, teacher_weights(experiment.folder))
    return inputs.fingerprint()


def _plan_evaluation(experiment: Experiment) -> Plan:
    from s4m_pipeline.evaluation.results import conditions, kept_result

    annotations, _ = experiment.options.data.split(experiment.split)
    now = conditions(annotations, experiment.parts)
    missing = []
    for stage in (TEACHER, STUDENT):
        weights = experiment.folder / stage / WEIGHTS
        if weights.exists():
            kept = kept_result(experiment.folder, experiment.split, stage, weights) or {}
            if kept.get("conditions") != now:
                missing.append(str(weights))
    if not missing:
        return Plan("done", [])
    arguments = ["evaluate", str(experiment.config), *missing, "--split", experiment.split]
    return Plan(f"{len(missing)} checkpoint(s) to evaluate", [arguments])


def _plan_report(experiment: Experiment) -> Plan:
    arguments = ["report", str(experiment.folder), "--config", str(experiment.config), "--pictures"]
    return Plan("written anew", [arguments])


PLANS: dict[StageName, Callable[[Experiment], Plan]] = {
    "teacher": _plan_teacher,
    "refine": _plan_refine,
    "student": _plan_student,
    "evaluate": _plan_evaluation,
    "report": _plan_report,
}


def _foretell(experiment: Experiment, chosen: Sequence[StageName]) -> None:
    """Say what would be done: all that comes after a stage that has work to do, has it too."""
    from s4m_pipeline.doctor import experiment as doctor

    pending = False
    for name in chosen:
        plan = Plan("after that", []) if pending else PLANS[name](experiment)
        pending = pending or bool(plan.commands)
        console.result.print(f"{name}: {plan.why}{_time_left(experiment, name, plan, pending)}")
    judged = doctor.CheckedConfig(experiment.config, experiment.options, experiment.parts)
    disk_gb = doctor.disk_bytes(judged) / 1e9
    console.result.print(f"disk for checkpoints and pseudo-labels: about {disk_gb:.1f} GB")


def _time_left(experiment: Experiment, name: str, plan: Plan, pending: bool) -> str:
    """An estimate where steps of this training were timed before."""
    from s4m_pipeline.engine.metrics import read_metrics

    if name not in (TEACHER, STUDENT) or not pending:
        return ""
    metrics = read_metrics(experiment.folder / name / METRICS)
    timed = [record for record in metrics if "seconds_per_step" in record]
    training = experiment.options.teacher if name == TEACHER else experiment.options.student
    if training is None:
        return ""
    if not timed:
        return f"; {training.iterations} steps, time not known before the first ones"
    done = 0 if plan.why.startswith(("done again", "after that")) else timed[-1]["step"]
    seconds = (training.iterations - done) * timed[-1]["seconds_per_step"]
    return f"; about {seconds / 60:.0f} minutes at the speed measured before"


def _print_summary(experiment: Experiment) -> None:
    """The table at the end: what each stage brought."""
    from rich.table import Table

    from s4m_pipeline.evaluation.results import kept_result
    from s4m_pipeline.student.generations import GenerationLog

    table = Table("", "percent", title=f"{experiment.folder} on data.{experiment.split}")
    for stage in (TEACHER, STUDENT):
        weights = experiment.folder / stage / WEIGHTS
        if weights.exists():
            kept = kept_result(experiment.folder, experiment.split, stage, weights) or {}
            table.add_row(f"{stage} AP", f"{kept['AP']:.1f}" if kept.get("AP") is not None else "-")
    log = GenerationLog(experiment.folder / STUDENT / GENERATIONS)
    quality = log.entries[0].get("quality", {}) if log.entries else {}
    for name, title in (("SQ before", "SQ of the teacher's masks"), ("SQ after", "SQ after refinement")):
        if quality.get(name) is not None:
            table.add_row(title, f"{quality[name]:.1f}")
    console.result.print(table)
    report = experiment.folder / REPORT
    if report.exists():
        console.result.print(f"{report}")
