"""Stage 3: train the student on labels and cached pseudo-labels, refreshed by its own EMA weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4m_pipeline.config.experiment import Options, load_experiment
from s4m_pipeline.config.student import OWN_TEACHER, StudentOptions
from s4m_pipeline.core import console
from s4m_pipeline.core.paths import CONTROL, STUDENT, TEACHER, WEIGHTS, experiment_folder
from s4m_pipeline.experiment.cache_place import note_cache
from s4m_pipeline.experiment.checkpoints import teacher_weights
from s4m_pipeline.experiment.generation_log import GenerationLog
from s4m_pipeline.planning.dependencies import student_dependencies
from s4m_pipeline.train.launch import student_batch_sizes
from s4m_stages.arguments import AllowPartial, Config, Devices, Overrides, Overwrite, TrustCheckpoint, WorkDir

if TYPE_CHECKING:
    from mmengine.hooks import Hook

    from s4m_pipeline.data.coco import CocoData
    from s4m_pipeline.sam import LoadedSam
    from s4m_pipeline.student.labels import Labels, TrueLabels

    StudentInputs = tuple[CocoData, CocoData, Labels | TrueLabels | None, GenerationLog]


def train_student(
    config_path: Config,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
    overwrite: Overwrite = False,
    allow_partial: AllowPartial = False,
    trust_checkpoint: TrustCheckpoint = False,
    devices: Devices = 1,
    control: Annotated[
        bool, typer.Option("--control", help="Train without unlabeled images, in the folder control.")
    ] = False,
) -> None:
    """Train the student; an interrupted run is resumed from its last checkpoint.

    With --control the labeled images replace the unlabeled ones, as with student.source=labeled: the gain of
    the student over this control is due to the unlabeled images.
    """
    from s4m_pipeline.sam import load_configured_sam
    from s4m_pipeline.train.distributed import joined, on_first_rank
    from s4m_pipeline.train.launch import launch_ranks
    from s4m_pipeline.train.training import Components, TrainingSpec, run_training

    options, config = load_experiment(config_path, overrides or [])
    if control:
        options = options.control
    student = options.require_student()
    launch_ranks(devices, lambda ranks: student_batch_sizes(student, ranks))
    experiment = experiment_folder(config_path, work_dir)
    if student.init_from == OWN_TEACHER:
        student = student.model_copy(update={"init_from": str(teacher_weights(experiment))})
    with joined(student.rank_timeout_s):
        folder = experiment / (CONTROL if control else STUDENT)
        inputs = on_first_rank(lambda: _load_inputs(options, student, folder, overwrite))
        train, val, labels, log = inputs
        sam = load_configured_sam(options.sam) if student.distill else None  # by each rank, to its own device
        made_of = log.fingerprint or (labels.fingerprint if labels is not None else None)
        spec = TrainingSpec(
            stage="train-student",
            config_name=config_path.stem,
            folder=folder,
            options=student,
            config=config,
            train=train,
            val=val,
            recorded=student_dependencies(options, config, experiment, made_of),
            average_from=student.burn_in,
            overwrite=overwrite,
            allow_partial=allow_partial,
            trust_checkpoint=trust_checkpoint,
        )
        run_training(
            spec,
            lambda: Components(
                _model(options, student, config, len(train.categories), sam),
                _dataloader(student, config, train, labels),
                _hooks(options, student, config, experiment, labels, log),
            ),
        )


def _load_inputs(options: Options, student: StudentOptions, folder: Path, overwrite: bool) -> "StudentInputs":
    """Labeled and validation images, the labels to start or resume with, and the log of those used so far.

    Args:
        overwrite: an earlier training is ignored.

    Raises:
        UserError, CacheError: if something is missing, damaged or does not belong together.
    """
    from s4m_pipeline.data.labeled import load_labeled
    from s4m_pipeline.student.labels import labels_of_source

    train, val = load_labeled(options.data)
    log = GenerationLog.to_resume(folder)
    if overwrite:
        log.entries.clear()
    number = log.latest if log.entries else None
    labels = labels_of_source(options, options.cache.folder(folder.parent), number, train)
    if student.source == "cache":
        note_cache(folder.parent, options.cache.root)
    return train, val, labels, log


def _model(
    options: Options,
    student: StudentOptions,
    config: dict[str, Any],
    num_classes: int,
    sam: "LoadedSam | None",
) -> dict[str, Any]:
    """Config of the network that learns from both branches, and in an ablation from SAM 2."""
    from s4m_pipeline.student.build import student_model

    model = student_model(student, config, num_classes)
    if sam is not None:
        from s4m_pipeline.models.distilled import DistilledStudent, distillation

        model.update(type=DistilledStudent, **distillation(options.sd, options.sam, sam))
    return model


def _dataloader(
    student: StudentOptions, config: dict[str, Any], train: "CocoData", labels: "Labels | TrueLabels | None"
) -> dict[str, Any]:
    from mmengine.dist import get_world_size

    from s4m_pipeline.student.build import student_dataloader

    return student_dataloader(student, config, train, labels, student_batch_sizes(student, get_world_size()))


def _hooks(
    options: Options,
    student: StudentOptions,
    config: dict[str, Any],
    experiment: Path,
    labels: "Labels | TrueLabels | None",
    log: "GenerationLog",
) -> "list[Hook]":
    """What refreshes the labels and watches over what they bring; nothing where they are not made."""
    from s4m_pipeline.refine.gate import Outcome
    from s4m_pipeline.student.early_warning import WarnBelowTeacher
    from s4m_pipeline.student.labels import Labels
    from s4m_pipeline.student.refresh import RefineLabels, TakeLabels

    if not isinstance(labels, Labels):
        return []
    if not log.entries:
        _note_other_teacher(labels, experiment)
        publication = labels.generation.published()
        assert publication is not None  # it is current
        log.record(
            0,
            labels.generation.number,
            "taken",
            made=labels.generation.number,
            fingerprint=labels.fingerprint,
            **Outcome.of_published(publication).about,
        )
    epoch_steps = -(-len(labels.unlabeled.images) // student.unlabeled_batch_size)
    refine = RefineLabels(options, config, labels.root)
    return [
        TakeLabels(labels.root, log, student, epoch_steps, refine),
        WarnBelowTeacher(experiment, options),
    ]


def _note_other_teacher(labels: "Labels", experiment: Path) -> None:
    """Say so if the labels to start with were made by weights other than the experiment's teacher."""
    from mmengine.dist import is_main_process

    from s4m_cache.fingerprint import file_hash

    teacher = experiment / TEACHER / WEIGHTS
    made_by = labels.fingerprint.get("teacher")  # None: imported
    if is_main_process() and made_by and teacher.is_file() and file_hash(teacher) != made_by:
        console.progress.print(
            f"{labels.generation.name} was not made by {teacher} (perhaps by an earlier student). "
            "`s4m run` starts with the teacher's own labels.",
            soft_wrap=True,
        )
