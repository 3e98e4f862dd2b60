"""Stage 1: train the teacher on the labelled images."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4m_pipeline import console
from s4m_pipeline.options.experiment import Options, load_experiment
from s4m_pipeline.options.groups import SamOptions, TrainOptions
from stages.artifacts import TEACHER, WEIGHTS, RunRecord, experiment_folder

if TYPE_CHECKING:
    from s4m_pipeline.data.coco import CocoData
    from s4m_pipeline.engine.hooks import StopOnSignal
    from s4m_pipeline.engine.progress import TrainingProgress
    from s4m_pipeline.engine.runner import QuietRunner
    from s4m_pipeline.sam import LoadedSam


def pretrain_teacher(
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
    """Train the teacher; a run that was interrupted goes on where it was saved."""
    from s4m_pipeline.engine.launch import find_place, launch, share_of_batch

    options, parts = load_experiment(config, overrides or [])
    place = find_place()
    share_of_batch(options.teacher.batch_size, place.world_size if place else devices)
    if place is None and devices > 1:
        raise SystemExit(launch(devices, sys.argv[1:]))

    from s4m_pipeline.engine.distributed import joined

    with joined(options.teacher.rank_timeout_s):
        _train(
            options,
            parts,
            config,
            experiment_folder(config, work_dir) / TEACHER,
            overwrite,
            allow_partial,
            trust_checkpoint,
        )


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
    from s4m_pipeline.engine.hooks import Interrupted

    train, val = _load_data(options)
    fingerprint = {data.json_path.name: data.sha256 for data in (train, val)}
    sam = _load_sam(options.sam) if options.sd.enabled else None
    if sam is not None:
        fingerprint["SAM weights"] = sam.weights_sha256
    settings = {**parts, **dataclasses.asdict(options)}
    record = on_first_rank(
        lambda: RunRecord.open(folder, "pretrain-teacher", settings, fingerprint, overwrite=overwrite)
    )
    try:
        runner, stop, progress = _build(options, parts, train, val, sam, folder)
        first_step = _start(runner, options.teacher, train, allow_partial, trust_checkpoint)
        record.note(device=_device_name(), from_step=first_step)
        began = time.perf_counter()
        with stop.listening(), progress:
            runner.train()
            result = _finish(runner, train, config)
    except Interrupted as signal:
        record.close("interrupted")
        console.progress.print(f"{signal}: saved in {folder}; the same command goes on from there.")
        raise SystemExit(signal.exit_code) from None
    except BaseException:
        record.close("failed")
        raise
    record.close("finished", {**result, "seconds": round(time.perf_counter() - began, 1)})
    console.result.print(f"{folder / WEIGHTS}", markup=False, soft_wrap=True)


def _load_data(options: Options) -> tuple["CocoData", "CocoData"]:
    from s4m_pipeline.data.coco import load_coco
    from s4m_pipeline.data.leak import check_leak
    from s4m_pipeline.errors import UserError

    data = options.data
    train = load_coco(data.path(data.labeled), data.path(data.train_images))
    val = load_coco(*data.split("val"))
    if train.class_names != val.class_names:
        raise UserError(
            "Training and validation data have other classes.\n"
            f"  {train.json_path} ({len(train.class_names)}): {', '.join(train.class_names)}\n"
            f"  {val.json_path} ({len(val.class_names)}): {', '.join(val.class_names)}\n"
            "Give both files the same categories."
        )
    check_leak(train, val)
    return train, val


def _load_sam(sam: SamOptions) -> "LoadedSam":
    from s4m_pipeline.sam import load_sam

    return load_sam(sam.model, config=sam.config, weights_dir=sam.weights_dir)


def _build(
    options: Options,
    parts: dict[str, Any],
    train: "CocoData",
    val: "CocoData",
    sam: "LoadedSam | None",
    folder: Path,
) -> tuple["QuietRunner", "StopOnSignal", "TrainingProgress"]:
    from mmengine.dist import get_world_size
    from mmengine.evaluator import Evaluator

    from s4m_pipeline.engine import parts as build
    from s4m_pipeline.engine.hooks import MetricsHook, RecoverFromNaN, StopOnSignal
    from s4m_pipeline.engine.launch import share_of_batch
    from s4m_pipeline.engine.progress import TrainingProgress
    from s4m_pipeline.engine.runner import QuietRunner
    from s4m_pipeline.engine.seeding import SeedEachStep
    from s4m_pipeline.evaluation.metric import MaskAPMetric
    from s4m_pipeline.registry import register_all

    register_all()
    teacher = options.teacher
    model = build.model_config(parts["model"], len(train.categories), teacher.init_from)
    if sam is not None:
        model.update(_distillation(options, sam))
    train_set = build.coco_dataset(train.json_path, train.images_root, parts["train_pipeline"])
    val_set = build.coco_dataset(val.json_path, val.images_root, parts["test_pipeline"])
    stop = StopOnSignal()
    progress = TrainingProgress(console.progress, teacher.iterations)
    runner = QuietRunner(
        work_dir=folder,
        model=model,
        train_dataloader=build.train_dataloader(
            train_set,
            batch_size=share_of_batch(teacher.batch_size, get_world_size()),
            workers=teacher.workers,
            seed=teacher.seed,
        ),
        train_cfg={
            "by_epoch": False,
            "max_iters": teacher.iterations,
            "val_interval": teacher.validate_every,
        },
        optim_wrapper=build.optim_wrapper(parts["optim_wrapper"], teacher.precision),
        param_scheduler=build.schedulers(parts.get("param_scheduler", []), teacher.iterations),
        val_dataloader=build.eval_dataloader(val_set, workers=teacher.workers),
        val_cfg={},
        val_evaluator=Evaluator(MaskAPMetric(val)),
        default_hooks=build.default_hooks(every=teacher.checkpoint_every, keep=teacher.keep_checkpoints),
        custom_hooks=[
            SeedEachStep(teacher.seed),
            MetricsHook(folder / "metrics.jsonl", teacher.log_every, progress),
            RecoverFromNaN(),
            stop,
            *build.ema_hooks(teacher.ema),
            *parts.get("custom_hooks", []),
        ],
        visualizer=build.visualizer(tensorboard=teacher.tensorboard),
        randomness={"seed": teacher.seed, "deterministic": teacher.deterministic},
        cfg=build.runner_switches(parts),
    )
    return runner, stop, progress


def _distillation(options: Options, sam: "LoadedSam") -> dict[str, Any]:
    """What turns the supervised teacher's config into that of one that also learns from SAM 2."""
    from mmengine.device import get_device

    from s4m_pipeline.models.distilled import MetaTeacher
    from s4m_pipeline.sam import BatchedSam

    batched = BatchedSam(
        sam.network,
        device=get_device(),
        encoder_batch=options.sam.encoder_batch,
        decoder_chunk=options.sam.decoder_chunk,
        compile=options.sam.compile,
    )
    sd = options.sd
    return {
        "type": "DistilledMask2Former",
        "meta_teacher": MetaTeacher(batched),
        "sd_weight": sd.weight,
        "sd_points": sd.points,
        "sd_target": sd.target,
        "sd_loss": sd.loss,
    }


def _start(
    runner: "QuietRunner", teacher: TrainOptions, train: "CocoData", allow_partial: bool, trust: bool
) -> int:
    """Take the weights from an interrupted run, a file, or chance; returns the steps done already."""
    from s4m_pipeline.engine.checkpoint import initialise, latest_checkpoint, read_weights, step_of
    from s4m_pipeline.engine.parts import TORCHVISION

    checkpoint = latest_checkpoint(Path(runner.work_dir))
    if checkpoint is not None:
        console.progress.print(f"Going on from {checkpoint}", markup=False, soft_wrap=True)
        runner.resume_from(checkpoint)
        return step_of(checkpoint)
    runner.network.init_weights()
    if teacher.init_from is not None and not teacher.init_from.startswith(TORCHVISION):
        weights = read_weights(Path(teacher.init_from), trust=trust)
        taken = initialise(runner.network, weights, tuple(train.class_names), allow_partial=allow_partial)
        console.progress.print(taken, markup=False, soft_wrap=True)
    return 0


def _finish(runner: "QuietRunner", train: "CocoData", config: Path) -> dict[str, Any]:
    """Write the (averaged) weights of the last step for the next stage; the result is their validation."""
    from s4m_pipeline.engine.distributed import on_first_rank
    from s4m_pipeline.engine.hooks import last_validation

    metrics = Path(runner.work_dir, "metrics.jsonl")
    validated = on_first_rank(lambda: last_validation(metrics).get("step"))
    if validated != runner.max_iters:  # killed between the last step and its validation
        runner.val_loop.run()
    return on_first_rank(lambda: _publish(metrics.parent, train, config))


def _publish(folder: Path, train: "CocoData", config: Path) -> dict[str, Any]:
    from s4m_pipeline.engine.checkpoint import latest_checkpoint, read_weights, write_weights
    from s4m_pipeline.engine.hooks import last_validation, mean_over_steps
    from s4m_pipeline.models.distilled import DISTILLATION

    metrics = folder / "metrics.jsonl"
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None  # the last step is always saved
    weights = read_weights(checkpoint)
    network = {name: value for name, value in weights.tensors.items() if not name.startswith(DISTILLATION)}
    write_weights(folder / WEIGHTS, network, tuple(train.class_names), config=config.stem)
    return {**last_validation(metrics), **mean_over_steps(metrics, ("seconds_per_step", "sam_seconds"))}


def _device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
