"""Stage 1: train the teacher on the labeled images."""

from typing import TYPE_CHECKING, Any

from s4m_pipeline.config.experiment import Options, load_experiment
from s4m_pipeline.core.paths import TEACHER, experiment_folder
from s4m_pipeline.planning.dependencies import teacher_dependencies
from s4m_stages.arguments import AllowPartial, Config, Devices, Overrides, Overwrite, TrustCheckpoint, WorkDir

if TYPE_CHECKING:
    from s4m_pipeline.data.coco import CocoData
    from s4m_pipeline.sam import LoadedSam

    TeacherInputs = tuple[CocoData, CocoData, LoadedSam | None]


def pretrain_teacher(
    config_path: Config,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
    overwrite: Overwrite = False,
    allow_partial: AllowPartial = False,
    trust_checkpoint: TrustCheckpoint = False,
    devices: Devices = 1,
) -> None:
    """Train the teacher; an interrupted run is resumed from its last checkpoint."""
    from s4m_pipeline.train.distributed import joined
    from s4m_pipeline.train.launch import launch_ranks
    from s4m_pipeline.train.training import Components, TrainingSpec, run_training

    options, config = load_experiment(config_path, overrides or [])
    launch_ranks(devices, lambda ranks: _batch_per_rank(options, ranks))
    with joined(options.teacher.rank_timeout_s):
        train, val, sam = _load_inputs(options)
        spec = TrainingSpec(
            stage="pretrain-teacher",
            config_name=config_path.stem,
            folder=experiment_folder(config_path, work_dir) / TEACHER,
            options=options.teacher,
            config=config,
            train=train,
            val=val,
            recorded=teacher_dependencies(options, config),
            overwrite=overwrite,
            allow_partial=allow_partial,
            trust_checkpoint=trust_checkpoint,
        )
        run_training(
            spec,
            lambda: Components(
                _model(options, config, len(train.categories), sam), _dataloader(options, config, train)
            ),
        )


def _load_inputs(options: Options) -> "TeacherInputs":
    """Labeled images, validation images, and SAM 2 if the teacher is distilled from it.

    Raises:
        UserError: if something is missing, damaged or does not belong together.
    """
    from s4m_pipeline.data.labeled import load_labeled
    from s4m_pipeline.sam import load_configured_sam

    train, val = load_labeled(options.data)
    sam = load_configured_sam(options.sam) if options.sd.enabled else None
    return train, val, sam


def _model(
    options: Options, config: dict[str, Any], num_classes: int, sam: "LoadedSam | None"
) -> dict[str, Any]:
    """Config of the network, with SAM 2 if it is distilled from it."""
    from s4m_pipeline.student.build import teacher_model

    model = teacher_model(options, config, num_classes)
    if sam is not None:
        from s4m_pipeline.models.distilled import DistilledMask2Former, distillation

        model.update(type=DistilledMask2Former, **distillation(options.sd, options.sam, sam))
    return model


def _dataloader(options: Options, config: dict[str, Any], train: "CocoData") -> dict[str, Any]:
    from mmengine.dist import get_world_size

    from s4m_pipeline.data.loaders import coco_dataset, train_dataloader

    teacher = options.teacher
    return train_dataloader(
        coco_dataset(train.json_path, train.images_root, config["train_pipeline"]),
        batch_size=_batch_per_rank(options, get_world_size()),
        workers=teacher.workers,
        seed=teacher.seed,
    )


def _batch_per_rank(options: Options, ranks: int) -> int:
    from s4m_pipeline.train.launch import batch_per_rank

    teacher = options.teacher
    return batch_per_rank("teacher.batch_size", teacher.batch_size, ranks, teacher.accumulate)
