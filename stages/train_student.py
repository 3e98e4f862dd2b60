"""Stage 3: train the student on labels and cached pseudo-labels, refreshed by its own average."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4m_pipeline import console
from s4m_pipeline.errors import UserError
from s4m_pipeline.layout import CACHE, GENERATIONS, STUDENT, TEACHER, WEIGHTS, experiment_folder
from s4m_pipeline.options.experiment import Options, load_experiment, settings_of
from s4m_pipeline.options.student import OWN_TEACHER, StudentOptions
from stages.arguments import AllowPartial, Config, Devices, Overrides, Overwrite, TrustCheckpoint, WorkDir
from stages.artifacts import RunRecord, initial_content, teacher_weights

if TYPE_CHECKING:
    from mmengine.hooks import Hook

    from cache.fingerprint import Fingerprint
    from s4m_pipeline.data.coco import CocoData
    from s4m_pipeline.sam import LoadedSam
    from s4m_pipeline.student.generations import GenerationLog
    from s4m_pipeline.student.labels import Labels

    StudentInputs = tuple[CocoData, CocoData, Labels | None, GenerationLog, LoadedSam | None]


def train_student(
    config: Config,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
    overwrite: Overwrite = False,
    allow_partial: AllowPartial = False,
    trust_checkpoint: TrustCheckpoint = False,
    devices: Devices = 1,
) -> None:
    """Train the student; a run that was interrupted goes on where it was saved."""
    from s4m_pipeline.engine.distributed import joined
    from s4m_pipeline.engine.launch import launch_ranks

    options, parts = load_experiment(config, overrides or [])
    student = options.require_student()
    launch_ranks(devices, lambda ranks: shares_of_batch(student, ranks))
    experiment = experiment_folder(config, work_dir)
    if student.init_from == OWN_TEACHER:
        student = dataclasses.replace(student, init_from=str(teacher_weights(experiment)))
    with joined(student.rank_timeout_s):
        _train(options, student, parts, config, experiment, overwrite, allow_partial, trust_checkpoint)


def _train(
    options: Options,
    student: StudentOptions,
    parts: dict[str, Any],
    config: Path,
    experiment: Path,
    overwrite: bool,
    allow_partial: bool,
    trust_checkpoint: bool,
) -> None:
    from s4m_pipeline.engine.distributed import on_first_rank
    from s4m_pipeline.models.load import check_start
    from s4m_pipeline.registry import register_all

    folder = experiment / STUDENT
    inputs = on_first_rank(lambda: load_inputs(options, student, experiment, overwrite))
    train, val, labels, log, sam = inputs
    began_with = log.fingerprint or (labels.fingerprint if labels else None)
    recorded = what_it_depends_on(options, parts, experiment, train, val, began_with, sam)
    on_first_rank(
        lambda: check_start(
            folder,
            student.init_from,
            parts,
            tuple(train.class_names),
            anew=overwrite,
            allow_partial=allow_partial,
            trust=trust_checkpoint,
        )
    )
    record = on_first_rank(lambda: RunRecord.open(folder, "train-student", *recorded, overwrite=overwrite))
    register_all()

    from s4m_pipeline.engine.training import Training, device_name
    from s4m_pipeline.models.distilled import DISTILLATION

    with record.session() as result:
        training = Training(
            student,
            parts,
            folder,
            model=_model(options, student, parts, len(train.categories), sam),
            dataloader=_dataloader(student, parts, train, labels),
            classes=train.class_names,
            val=val,
            average_from=student.burn_in,
            hooks=_hooks(options, student, parts, labels, log),
        )
        first_step = training.start(trust=trust_checkpoint)
        record.note(device=device_name(), from_step=first_step)
        result.update(training.run(folder / WEIGHTS, omit=DISTILLATION, config=config.stem))
    console.result.print(f"{folder / WEIGHTS}")


def shares_of_batch(student: StudentOptions, ranks: int) -> tuple[int, int]:
    """Labelled and unlabelled images of a step on each of so many devices.

    Raises:
        UserError: if they cannot be divided, or leave ARP, which pairs images of one device, without a pair.
    """
    from s4m_pipeline.engine.launch import share_of_batch

    labeled = share_of_batch("student.batch_size", student.batch_size, ranks)
    unlabeled = share_of_batch("student.unlabeled_batch_size", student.unlabeled_batch_size, ranks)
    if student.arp.fraction > 0 and student.arp.num_pairs(unlabeled) == 0:
        raise UserError(
            f"student.unlabeled_batch_size: {student.unlabeled_batch_size} images on {ranks} device(s) with "
            f"student.arp.fraction={student.arp.fraction} leave ARP nothing to paste: it exchanges objects "
            "within pairs of unlabelled images of the same device.\n"
            f"Expected at least {math.ceil(2 / student.arp.fraction)} images on each device. "
            "Change the batch size or the number of devices; student.arp.fraction=0 trains without ARP."
        )
    return labeled, unlabeled


def load_inputs(options: Options, student: StudentOptions, experiment: Path, anew: bool) -> "StudentInputs":
    """Labelled and validation images, the labels to begin or go on with, the log of those taken so far, and
    SAM 2 if it is learnt from.

    Args:
        anew: forget an earlier training.

    Raises:
        UserError, CacheError: if something is missing, damaged or does not belong together.
    """
    from s4m_pipeline.data.labelled import load_labelled
    from s4m_pipeline.sam import load_configured_sam
    from s4m_pipeline.student.labels import load_labels

    data = options.data
    train, val = load_labelled(data)
    log = generation_log(experiment / STUDENT, anew=anew)
    sam = load_configured_sam(options.sam) if student.distill else None
    if student.source == "labeled":
        return train, val, None, log, sam
    number = log.latest if log.entries else None
    return train, val, load_labels(data, experiment / CACHE, number, train), log, sam


def generation_log(folder: Path, *, anew: bool) -> "GenerationLog":
    """The log of the training in a folder; empty if it is forgotten, or nothing was saved to go on with."""
    from s4m_pipeline.engine.checkpoint import latest_checkpoint
    from s4m_pipeline.student.generations import GenerationLog

    log = GenerationLog(folder / GENERATIONS)
    if anew or latest_checkpoint(folder) is None:
        log.entries.clear()
    return log


def what_it_depends_on(
    options: Options,
    parts: dict[str, Any],
    experiment: Path,
    train: "CocoData",
    val: "CocoData",
    began_with: "Fingerprint | None",
    sam: "LoadedSam | None",
) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings and contents that decide what the student learns, as its record keeps them.

    Args:
        began_with: what made the labels that the training began with, or would begin with now; None: it
            needs none.
        sam: SAM 2, if it is learnt from.
    """
    start = options.require_student().init_from
    contents = {"data.labeled": train.sha256, "data.val": val.sha256}
    contents |= initial_content(str(experiment / TEACHER / WEIGHTS) if start == OWN_TEACHER else start)
    contents |= {f"labels: {name}": str(value) for name, value in (began_with or {}).items()}
    groups = ["data", "sam", "refine", "student"]
    if sam is not None:
        contents["SAM weights"] = sam.weights_sha256
        groups.append("sd")
    # The teacher's own settings are in the hash of its weights; labels are made anew in its precision.
    settings = {"teacher": {"precision": options.teacher.precision}}
    return settings_of(options, parts, *groups) | settings, contents


def _model(
    options: Options,
    student: StudentOptions,
    parts: dict[str, Any],
    num_classes: int,
    sam: "LoadedSam | None",
) -> dict[str, Any]:
    """Config of the network that learns from both branches, and in an ablation from SAM 2."""
    from s4m_pipeline.student.build import student_model

    model = student_model(student, parts, num_classes)
    if sam is not None:
        from s4m_pipeline.models.distilled import distillation

        model.update(type="DistilledStudent", **distillation(options.sd, options.sam, sam))
    return model


def _dataloader(
    student: StudentOptions, parts: dict[str, Any], train: "CocoData", labels: "Labels | None"
) -> dict[str, Any]:
    from mmengine.dist import get_world_size

    from s4m_pipeline.student.build import student_dataloader

    return student_dataloader(student, parts, train, labels, shares_of_batch(student, get_world_size()))


def _hooks(
    options: Options,
    student: StudentOptions,
    parts: dict[str, Any],
    labels: "Labels | None",
    log: "GenerationLog",
) -> "list[Hook]":
    """What exchanges the labels while training; nothing in the control experiment."""
    from s4m_pipeline.refine.gate import Outcome
    from s4m_pipeline.student.label_maker import RefineLabels
    from s4m_pipeline.student.refresh import TakeLabels

    if labels is None:
        return []
    if not log.entries:
        _say_whose_labels(labels)
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
    return [TakeLabels(labels.root, log, student, epoch_steps, RefineLabels(options, parts, labels.root))]


def _say_whose_labels(labels: "Labels") -> None:
    """Say so if the experiment's teacher is not the one that made the labels to begin with."""
    from mmengine.dist import is_main_process

    from cache.fingerprint import file_hash

    teacher = labels.root.parent / TEACHER / WEIGHTS
    made_by = labels.fingerprint.get("teacher")  # None: imported
    if is_main_process() and made_by and teacher.is_file() and file_hash(teacher) != made_by:
        console.progress.print(
            f"{labels.generation.name} was not made by {teacher} (perhaps by an earlier student). "
            "`s4m run` begins with the teacher's own labels.",
            soft_wrap=True,
        )
