"""Stage 3: train the student on labels and cached pseudo-labels, refreshed by its own average."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4m_pipeline import console
from s4m_pipeline.errors import UserError
from s4m_pipeline.options.experiment import Options, load_experiment, settings_of
from s4m_pipeline.options.student import StudentOptions
from stages.artifacts import (
    CACHE,
    GENERATIONS,
    STUDENT,
    TEACHER,
    WEIGHTS,
    RunRecord,
    experiment_folder,
    teacher_weights,
)

if TYPE_CHECKING:
    from mmengine.hooks import Hook

    from s4m_pipeline.data.coco import CocoData
    from s4m_pipeline.student.generations import GenerationLog
    from s4m_pipeline.student.labels import Labels

    StudentInputs = tuple[CocoData, CocoData, Labels | None, GenerationLog]


def train_student(
    config: Annotated[Path, typer.Argument(help="Config of the experiment, a file of configs/.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the config.")
    ] = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="Folder of the experiment.  [default: work_dirs/<config name>]")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete an earlier run and start anew.")
    ] = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Start from those initial weights that fit.")
    ] = False,
    trust_checkpoint: Annotated[
        bool, typer.Option("--trust-checkpoint", help="Load initial weights even if their file runs code.")
    ] = False,
    devices: Annotated[
        int,
        typer.Option(
            min=1, help="Processes to train in, one for each GPU; under torchrun or srun these decide."
        ),
    ] = 1,
) -> None:
    """Train the student; a run that was interrupted goes on where it was saved."""
    from s4m_pipeline.engine.distributed import joined
    from s4m_pipeline.engine.launch import launch_ranks

    options, parts = load_experiment(config, overrides or [])
    student = options.student
    if student is None:
        raise UserError(
            f"{config} has no group `student`.\nAdd one; configs/demo/demo.py is an example, and "
            "s4m_pipeline/options/student.py explains its keys."
        )
    batches = {
        "student.batch_size": student.batch_size,
        "student.unlabeled_batch_size": student.unlabeled_batch_size,
    }
    launch_ranks(devices, batches)
    experiment = experiment_folder(config, work_dir)
    if student.init_from == TEACHER:
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
    from s4m_pipeline.registry import register_all

    folder = experiment / STUDENT
    train, val, labels, log = on_first_rank(lambda: load_inputs(options, student, experiment, overwrite))
    recorded = what_it_depends_on(options, parts, (train, val, labels, log))
    record = on_first_rank(lambda: RunRecord.open(folder, "train-student", *recorded, overwrite=overwrite))
    register_all()

    from s4m_pipeline.engine.training import Training, device_name

    with record.session() as result:
        training = Training(
            student,
            parts,
            folder,
            model=_model(student, parts, len(train.categories)),
            dataloader=_dataloader(student, parts, train, labels),
            classes=train.class_names,
            val=val,
            average_from=student.burn_in,
            hooks=_hooks(options, student, parts, labels, log),
        )
        first_step = training.start(allow_partial=allow_partial, trust=trust_checkpoint)
        record.note(device=device_name(), from_step=first_step)
        result.update(training.run(folder / WEIGHTS, config=config.stem))
    console.result.print(f"{folder / WEIGHTS}", markup=False, soft_wrap=True)


def load_inputs(options: Options, student: StudentOptions, experiment: Path, anew: bool) -> "StudentInputs":
    """Labelled and validation images, the labels to begin or go on with, and the log of those taken so far.

    Args:
        anew: forget an earlier training.

    Raises:
        UserError, CacheError: if something is missing, damaged or does not belong together.
    """
    from s4m_pipeline.data.labelled import load_labelled
    from s4m_pipeline.data.unlabeled import load_unlabeled
    from s4m_pipeline.student.generations import GenerationLog
    from s4m_pipeline.student.labels import find_labels

    data = options.data
    train, val = load_labelled(data)
    log = GenerationLog(experiment / STUDENT / GENERATIONS)
    if anew:
        log.entries.clear()
    if student.source == "labeled":
        return train, val, None, log
    if data.unlabeled is None:
        raise UserError(
            "The config has no data.unlabeled, the images that the labels in the cache belong to."
        )
    number = log.latest if log.entries else None
    unlabeled = load_unlabeled(data.path(data.unlabeled), data.path(data.train_images))
    return train, val, find_labels(experiment / CACHE, number, train, unlabeled), log


def what_it_depends_on(
    options: Options, parts: dict[str, Any], inputs: "StudentInputs"
) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings and contents that decide what the student learns, as its record keeps them."""
    train, val, labels, log = inputs
    contents = {data.json_path.name: data.sha256 for data in (train, val)}
    if labels is not None:
        began_with = log.entries[0]["fingerprint"] if log.entries else labels.fingerprint
        contents |= {f"labels: {name}": str(value) for name, value in began_with.items()}
    return settings_of(options, parts, "data", "teacher", "sam", "refine", "student"), contents


def _model(student: StudentOptions, parts: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """Config of the network that learns from both branches."""
    from s4m_pipeline.engine.parts import model_config

    model = model_config(parts["model"], num_classes, student.init_from)
    model.update(
        type="StudentMask2Former",
        unlabeled_weight=student.unlabeled_weight,
        unlabeled_background=student.unlabeled_background,
    )
    model["data_preprocessor"].update(
        type="StudentPreprocessor", arp=student.arp, photometric=student.photometric
    )
    return model


def _dataloader(
    student: StudentOptions, parts: dict[str, Any], train: "CocoData", labels: "Labels | None"
) -> dict[str, Any]:
    from mmengine.dist import get_world_size

    from s4m_pipeline.engine.launch import share_of_batch
    from s4m_pipeline.engine.parts import coco_dataset, pseudo_label_dataset, two_branch_dataloader

    labelled = unlabeled = coco_dataset(train.json_path, train.images_root, parts["train_pipeline"])
    if labels is not None:
        unlabeled = pseudo_label_dataset(labels, train.class_names, parts["train_pipeline"])
    ranks = get_world_size()
    return two_branch_dataloader(
        labelled,
        unlabeled,
        batch_sizes=(
            share_of_batch("student.batch_size", student.batch_size, ranks),
            share_of_batch("student.unlabeled_batch_size", student.unlabeled_batch_size, ranks),
        ),
        workers=student.workers,
        seed=student.seed,
    )


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
