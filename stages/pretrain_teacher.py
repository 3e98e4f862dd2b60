"""Stage 1: train the teacher on the labelled images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4m_pipeline import console
from s4m_pipeline.layout import TEACHER, WEIGHTS, experiment_folder
from s4m_pipeline.options.experiment import Options, load_experiment, settings_of
from stages.arguments import AllowPartial, Config, Devices, Overrides, Overwrite, TrustCheckpoint, WorkDir
from stages.artifacts import RunRecord, initial_content

if TYPE_CHECKING:
    from s4m_pipeline.data.coco import CocoData
    from s4m_pipeline.sam import LoadedSam

    TeacherInputs = tuple[CocoData, CocoData, LoadedSam | None]


def pretrain_teacher(
    config: Config,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
    overwrite: Overwrite = False,
    allow_partial: AllowPartial = False,
    trust_checkpoint: TrustCheckpoint = False,
    devices: Devices = 1,
) -> None:
    """Train the teacher; a run that was interrupted goes on where it was saved."""
    from s4m_pipeline.engine.distributed import joined
    from s4m_pipeline.engine.launch import launch_ranks

    options, parts = load_experiment(config, overrides or [])
    launch_ranks(devices, lambda ranks: _share_of_batch(options, ranks))
    folder = experiment_folder(config, work_dir) / TEACHER
    with joined(options.teacher.rank_timeout_s):
        _train(options, parts, config, folder, overwrite, allow_partial, trust_checkpoint)


def _train(
    options: Options,
    parts: dict[str, Any],
    config: Path,
    folder: Path,
    overwrite: bool,
    allow_partial: bool,
    trust_checkpoint: bool,
) -> None:
    from s4m_pipeline.engine.distributed import on_first_rank
    from s4m_pipeline.models.load import check_start
    from s4m_pipeline.registry import register_all

    train, val, sam = load_inputs(options)
    recorded = what_it_depends_on(options, parts, (train, val, sam))
    on_first_rank(
        lambda: check_start(
            folder,
            options.teacher.init_from,
            parts,
            tuple(train.class_names),
            anew=overwrite,
            allow_partial=allow_partial,
            trust=trust_checkpoint,
        )
    )
    record = on_first_rank(lambda: RunRecord.open(folder, "pretrain-teacher", *recorded, overwrite=overwrite))
    register_all()

    from s4m_pipeline.engine.training import Training, device_name
    from s4m_pipeline.models.distilled import DISTILLATION

    with record.session() as result:
        training = Training(
            options.teacher,
            parts,
            folder,
            model=_model(options, parts, len(train.categories), sam),
            dataloader=_dataloader(options, parts, train),
            classes=train.class_names,
            val=val,
        )
        first_step = training.start(trust=trust_checkpoint)
        record.note(device=device_name(), from_step=first_step)
        result.update(training.run(folder / WEIGHTS, omit=DISTILLATION, config=config.stem))
    console.result.print(f"{folder / WEIGHTS}")


def load_inputs(options: Options) -> "TeacherInputs":
    """Labelled images, validation images, and SAM 2 if it is learnt from.

    Raises:
        UserError: if something is missing, damaged or does not belong together.
    """
    from s4m_pipeline.data.labelled import load_labelled
    from s4m_pipeline.sam import load_configured_sam

    train, val = load_labelled(options.data)
    sam = load_configured_sam(options.sam) if options.sd.enabled else None
    return train, val, sam


def what_it_depends_on(
    options: Options, parts: dict[str, Any], inputs: "TeacherInputs"
) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings and contents that decide what the teacher learns, as its record keeps them."""
    train, val, sam = inputs
    contents = {"data.labeled": train.sha256, "data.val": val.sha256}
    contents |= initial_content(options.teacher.init_from)
    groups = ["data", "teacher"]
    if sam is not None:
        contents["SAM weights"] = sam.weights_sha256
        groups += ["sam", "sd"]
    return settings_of(options, parts, *groups), contents


def _model(
    options: Options, parts: dict[str, Any], num_classes: int, sam: "LoadedSam | None"
) -> dict[str, Any]:
    """Config of the network, with what it needs to learn from SAM 2, too."""
    from s4m_pipeline.engine.parts import model_config

    model = model_config(parts["model"], num_classes, options.teacher.init_from)
    if sam is not None:
        from s4m_pipeline.models.distilled import distillation

        model.update(type="DistilledMask2Former", **distillation(options.sd, options.sam, sam))
    return model


def _dataloader(options: Options, parts: dict[str, Any], train: "CocoData") -> dict[str, Any]:
    from mmengine.dist import get_world_size

    from s4m_pipeline.engine.parts import coco_dataset, train_dataloader

    teacher = options.teacher
    return train_dataloader(
        coco_dataset(train.json_path, train.images_root, parts["train_pipeline"]),
        batch_size=_share_of_batch(options, get_world_size()),
        workers=teacher.workers,
        seed=teacher.seed,
    )


def _share_of_batch(options: Options, ranks: int) -> int:
    from s4m_pipeline.engine.launch import share_of_batch

    return share_of_batch("teacher.batch_size", options.teacher.batch_size, ranks)
