"""The plan of an experiment: each stage is skipped, started, resumed, or re-run because something changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from s4m_cache.fingerprint import Fingerprint
from s4m_cache.generations import current_number, generations, made_with
from s4m_cache.importing import IMPORTED
from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.groups import Recipe
from s4m_pipeline.config.sam_files import sam_source
from s4m_pipeline.config.weight_files import WeightFile
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import CONTROL, STUDENT, TEACHER, WEIGHTS
from s4m_pipeline.data.unlabeled import names_digest, unlabeled_names
from s4m_pipeline.experiment.changes import changes, differences
from s4m_pipeline.experiment.checkpoints import latest_checkpoint, step_of, teacher_weights
from s4m_pipeline.experiment.evaluation_file import conditions, current_results
from s4m_pipeline.experiment.generation_log import GenerationLog
from s4m_pipeline.experiment.image_files import image_changes
from s4m_pipeline.experiment.run_record import read_run, running_process
from s4m_pipeline.planning.dependencies import Dependencies, student_dependencies, teacher_dependencies
from s4m_pipeline.refine.fingerprint import comparable, explain_labels, label_fingerprint

StageName = Literal["teacher", "refine", "student", "control", "evaluate", "report"]
STAGES: tuple[StageName, ...] = get_args(StageName)
TRAININGS = (TEACHER, STUDENT, CONTROL)
_SHOWN = 3
"""Changes that a line names."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is run, and where."""

    config_path: Path
    config: dict[str, Any]
    """The whole config as plain values."""
    options: Options
    folder: Path
    devices: int

    @property
    def split(self) -> Literal["val", "test"]:
        """What teacher and student are compared on."""
        return "val" if self.options.data.test is None else "test"


@dataclass(frozen=True)
class Plan:
    """What is to be done about a stage."""

    stage: StageName
    text: str
    arguments: Sequence[str] | None = None
    """Of `s4m`, without those that all stages share; None: nothing is to be done."""
    changed: Sequence[str] = ()
    """What changed since the run that has to be deleted before this stage runs again."""
    start_step: int = 0
    """The iteration that a training resumes from."""


class Planner:
    """Plans stages from the files as they are when each is first asked for; every file is read once.

    Args:
        experiment: what is run.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.options = experiment.options
        self.folder = experiment.folder

    def plan(self, stage: StageName) -> Plan:
        """What is to be done about one stage, if those before it are done.

        Raises:
            UserError, CacheError: if a file that this depends on is missing or damaged.
        """
        plans = {
            "teacher": self._teacher,
            "refine": self._refine,
            "student": self._student,
            "control": self._control,
            "evaluate": self._evaluate,
            "report": self._report,
        }
        reason = self._not_needed(stage)
        return plans[stage]() if reason is None else Plan(stage, reason)

    def plan_all(self, chosen: Sequence[StageName]) -> list[Plan]:
        """The plans of several stages, of which some wait for others.

        Raises:
            UserError, CacheError: as `plan`.
        """
        plans: list[Plan] = []
        for stage in chosen:
            pending = {plan.stage for plan in plans if plan.arguments is not None}
            # What students are planned by is settled with the teacher: settings, its weights, their own logs.
            waits = pending & {TEACHER} if stage in (STUDENT, CONTROL) else pending
            if waits and self._not_needed(stage) is None:
                plans.append(Plan(stage, "runs after the stages before it", []))
            else:
                plans.append(self.plan(stage))
        return plans

    def _not_needed(self, stage: StageName) -> str | None:
        student, data = self.options.student, self.options.data
        if stage in ("student", "control") and student is None:
            return "the config has no group `student`"
        if stage in ("refine", "control") and student is not None and student.source != "cache":
            return f"not needed: student.source is {student.source!r}"
        if data.unlabeled is None and (student is None or student.source == "cache"):
            texts = {
                "refine": "the config has no data.unlabeled",
                "student": "there are no unlabeled images to learn from",
            }
            return texts.get(stage)
        return None

    def _teacher(self) -> Plan:
        now = teacher_dependencies(self.options, self.experiment.config)
        return self._training("teacher", "pretrain-teacher", read_run(self.folder / TEACHER), now)

    def _refine(self) -> Plan:
        root, log = self.options.cache.folder(self.folder), self._log
        started = self.options.student is not None and bool(log.entries)
        if started and not self._label_changes and not self._student_starts_over:
            return Plan("refine", f"finished (gen-{log.first:04d}, which the student started with)")
        arguments = ["refine", str(self.experiment.config_path)]
        known = generations(root)
        if not known:
            return Plan("refine", "not started", arguments)
        if self.options.student is not None and current_number(root) > 0:
            # The gate compares with the labels that are current, which are of another training than this one.
            arguments += ["--set", "student.gate=off"]
        for used in known:
            if used.number == current_number(root) and IMPORTED in used.spec.fingerprint:
                return Plan(
                    "refine", f"finished ({used.name}, imported from {used.spec.fingerprint[IMPORTED]})"
                )
        generation = made_with(root, self._labels_now, explain_labels)
        changed_images = image_changes(generation.path) if generation else []
        if generation and not changed_images:
            if generation.published() is not None and generation.number == current_number(root):
                return Plan("refine", f"finished ({generation.name})")
            return Plan("refine", f"resumes {generation.name}", [*arguments, "-g", str(generation.number)])
        before = self._log.fingerprint if started else known[-1].spec.fingerprint
        why = _joined([*_label_changes(before or {}, self._labels_now), *changed_images])
        why = why or "the student starts over: the labels published now were made in its earlier training"
        return Plan("refine", f"re-run, because {why}", [*arguments, "-g", str(known[-1].number + 1)])

    def _student(self) -> Plan:
        made_of = self._label_changes if self._log.entries else []
        return self._training("student", "train-student", self._student_run, self._student_now, made_of)

    def _control(self) -> Plan:
        now = student_dependencies(self.options.control, self.experiment.config, self.folder, None)
        plan = self._training("control", "train-student", read_run(self.folder / CONTROL), now)
        arguments = None if plan.arguments is None else [*plan.arguments, "--control"]
        return replace(plan, arguments=arguments)

    def _evaluate(self) -> Plan:
        experiment = self.experiment
        annotations, _ = self.options.data.split(experiment.split)
        now = conditions(annotations, experiment.config)
        results = current_results(self.folder, experiment.split)
        weights = {stage: self.folder / stage / WEIGHTS for stage in TRAININGS}
        missing = [
            str(path)
            for stage, path in weights.items()
            if path.exists() and results.get(stage, {}).get("conditions") != now
        ]
        if not missing:
            return Plan("evaluate", "finished")
        text = f"{len(missing)} checkpoint{'s' * (len(missing) > 1)} to evaluate"
        arguments = ["evaluate", str(experiment.config_path), *missing, "--split", experiment.split]
        return Plan("evaluate", text, arguments)

    def _report(self) -> Plan:
        arguments = ["report", str(self.folder), "--config", str(self.experiment.config_path), "--pictures"]
        return Plan("report", "written again", arguments)

    def _training(
        self,
        stage: Literal["teacher", "student", "control"],
        command: str,
        run: Mapping[str, Any] | None,
        now: Dependencies,
        changed_labels: Sequence[str] = (),
    ) -> Plan:
        experiment = self.experiment
        arguments = [command, str(experiment.config_path), "--devices", str(experiment.devices)]
        if run is None:
            return Plan(stage, "not started", arguments)
        checkpoint = latest_checkpoint(self.folder / stage)
        before = "interrupted" if run["status"] == "running" else run["status"]  # killed
        if run["status"] != "finished" and checkpoint is None:
            return Plan(stage, f"starts from scratch ({before} before its first checkpoint)", arguments)
        changes_now = [*changes(run, *now), *changed_labels, *image_changes(self.folder / stage)]
        if changed := list(dict.fromkeys(changes_now)):
            return Plan(
                stage, f"re-run, because {_joined(changed)}", [*arguments, "--overwrite"], changed=changed
            )
        if run["status"] == "finished":
            return Plan(stage, f"finished (validation AP {run['result'].get('AP') or 0:.1f})")
        assert checkpoint is not None
        step = step_of(checkpoint)
        return Plan(stage, f"resumes from iteration {step} ({before} before)", arguments, start_step=step)

    @cached_property
    def _log(self) -> GenerationLog:
        return GenerationLog.to_resume(self.folder / STUDENT)

    @cached_property
    def _student_run(self) -> dict[str, Any] | None:
        return read_run(self.folder / STUDENT)

    @cached_property
    def _student_now(self) -> Dependencies:
        return student_dependencies(self.options, self.experiment.config, self.folder, self._log.fingerprint)

    @property
    def _student_starts_over(self) -> bool:
        return self._student_run is None or bool(changes(self._student_run, *self._student_now))

    @cached_property
    def unlabeled(self) -> list[tuple[int, str]]:
        """Ids and names of the unlabeled images; empty if the config has none."""
        data = self.options.data
        return unlabeled_names(data.path(data.unlabeled)) if data.unlabeled is not None else []

    @cached_property
    def _labels_now(self) -> Fingerprint:
        """The fingerprint of labels by the current teacher, SAM and settings."""
        sam = None if self.options.refine.prompt is None else sam_source(self.options.sam)
        return label_fingerprint(
            self.options,
            self.experiment.config,
            WeightFile(path=teacher_weights(self.folder)),
            sam,
            names_digest(self.unlabeled),
        )

    @cached_property
    def _label_changes(self) -> list[str]:
        """Differences of the current labels from those that the student started with, or its latest ones."""
        known = generations(self.options.cache.folder(self.folder))
        changed_images = image_changes(known[-1].path) if known else []
        return [*_label_changes(self._log.fingerprint or {}, self._labels_now), *changed_images]


def _label_changes(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Differences of two fingerprints, with settings named as in the config; none from imported labels."""
    if IMPORTED in old:
        return []
    names = {name: f"refine.{name}" for name in Recipe.model_fields}
    names |= {"teacher": "the teacher's weights", "sam": "sam.model", "image names": "unlabeled images"}
    made = comparable(old, new)
    return differences(*({names.get(key, key): value for key, value in each.items()} for each in made))


def _joined(changed: Sequence[str]) -> str:
    more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return "; ".join(changed[:_SHOWN]) + more


def require_idle(folder: Path, chosen: Sequence[StageName]) -> None:
    """Refuse to plan while a process trains in the experiment: its files are about to change.

    Raises:
        UserError: naming host, process and since when.
    """
    busy = []
    for stage in TRAININGS:
        if stage in chosen and (process := running_process(folder / stage)):
            sessions = (read_run(folder / stage) or {}).get("sessions", [])
            since = f", since {sessions[-1]['started']}" if sessions else ""
            busy.append(f"{stage}: a training is running in {folder / stage} ({process}{since}).")
    if busy:
        raise UserError(
            "\n".join(busy) + "\nNothing was planned. Wait until it ends, or stop it (SIGTERM lets it save); "
            "the same command then resumes."
        )


def require_overwrite(folder: Path, plans: Sequence[Plan]) -> None:
    """Refuse plans that delete what was trained.

    Raises:
        UserError: naming what changed, and how to keep or to delete it.
    """
    lines = [
        f"{folder / plan.stage} holds a training of different settings or data:\n  "
        + "\n  ".join(plan.changed[:10])
        for plan in plans
        if plan.changed
    ]
    if lines:
        raise UserError(
            "\n".join(lines)
            + "\nNothing was deleted. Give --work-dir NEW to keep it and run in another folder, "
            "or --overwrite to delete it and train again."
        )
