"""One training from start to end: what the stages of teacher and student share."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.dist import get_world_size
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from torch import Tensor, nn

from s4m_pipeline.config.groups import TrainOptions
from s4m_pipeline.config.weight_files import TORCHVISION
from s4m_pipeline.core import console
from s4m_pipeline.core.devices import device_name
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import BEST_SO_FAR, WEIGHTS, torch_checkpoints
from s4m_pipeline.core.progress import ProgressBar
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.loaders import coco_dataset, eval_dataloader
from s4m_pipeline.experiment.best import update_best
from s4m_pipeline.experiment.checkpoints import latest_checkpoint, step_of
from s4m_pipeline.experiment.metrics import mean_over_steps, validations
from s4m_pipeline.experiment.run_record import RunRecord, read_run
from s4m_pipeline.models.checkpoint import TRAINING_ONLY, read_weights, write_weights
from s4m_pipeline.models.fitting import holds_backbone, initialize
from s4m_pipeline.models.load import check_start
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.models.unpickling import load_checkpoint, no_code_from
from s4m_pipeline.train.determinism import DeterministicForms
from s4m_pipeline.train.distributed import on_first_rank
from s4m_pipeline.train.hooks import RecoverFromNaN, SeedEachStep, StopOnSignal, WatchDisk, save_now
from s4m_pipeline.train.metrics import MaskAPMetric, MetricsHook
from s4m_pipeline.train.runner import (
    QuietRunner,
    default_hooks,
    ema_hooks,
    loop,
    optim_wrapper,
    runner_switches,
    schedulers,
    visualizer,
)
from s4m_pipeline.train.selection import KeepBest, StopWithoutGain, best_validation


class Components(NamedTuple):
    """What a stage trains, on what, and what else happens meanwhile."""

    model: dict[str, Any]
    """Config of the network."""
    dataloader: dict[str, Any]
    """Config of the loader of the training data."""
    hooks: Sequence[Hook] = ()
    """Called after all others."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """A training as a stage asks for it."""

    stage: str
    """Name of the stage's command."""
    config_name: str
    """Noted in the header of the final weights."""
    folder: Path
    """Of the stage."""
    options: TrainOptions
    config: Mapping[str, Any]
    """The whole config as plain values; what mmengine needs is taken from it."""
    train: CocoData
    val: CocoData
    recorded: tuple[dict[str, Any], dict[str, str]]
    """Settings and contents that the result depends on, as `RunRecord.open` takes them."""
    average_from: int = 0
    """Iteration at which the EMA model starts as a copy of the network (`options.ema`)."""
    overwrite: bool
    """Delete an earlier run."""
    allow_partial: bool
    """Start from those initial weights that fit."""
    trust_checkpoint: bool
    """Files of initial weights may run code."""


def run_training(spec: TrainingSpec, build: Callable[[], Components]) -> None:
    """Start or resume a training in its folder, which ends with a finished run.json and the final weights.

    It survives NaN and, when a signal stops it, can be resumed.

    Args:
        build: called once everything is registered, as its classes may need mmdet.

    Raises:
        UserError: if initial weights do not fit, or the folder holds another run; as `check_start` and
            `RunRecord.open`.
        SystemExit: after a signal, when everything is saved.
    """
    classes = tuple(spec.train.class_names)
    on_first_rank(
        lambda: check_start(
            spec.folder,
            spec.options.init_from,
            spec.config,
            classes,
            overwrite=spec.overwrite,
            allow_partial=spec.allow_partial,
            trust=spec.trust_checkpoint,
        )
    )
    parts = get_world_size() * spec.options.accumulate
    on_first_rank(lambda: _check_parts(spec, parts))
    images = [image.path for data in (spec.train, spec.val) for image in data.images]
    record = on_first_rank(
        lambda: RunRecord.open(
            spec.folder, spec.stage, *spec.recorded, images=images, overwrite=spec.overwrite
        )
    )
    register_all()
    exact = spec.options.deterministic and torch.cuda.is_available()  # a CPU's kernels are deterministic
    with record.session() as result, DeterministicForms() if exact else nullcontext():
        stop = StopOnSignal()
        progress = ProgressBar(spec.options.iterations, "Training", line_every_s=math.inf)
        runner = _build_runner(spec, build(), stop, progress)
        first_step = _set_weights(runner, spec, classes, record)
        record.note(device=device_name(), from_step=first_step, batch_parts=parts)
        with stop.listening(), progress, closing(runner.visualizer):
            _train(runner, spec.folder)
            on_first_rank(lambda: _write_weights(spec))
        result.update(on_first_rank(lambda: _result(spec)))
    on_first_rank(lambda: update_best(spec.folder.parent))
    console.result.print(f"{spec.folder / WEIGHTS}")


def _check_parts(spec: TrainingSpec, parts: int) -> None:
    """Refuse to resume a training whose batches were in a different number of parts.

    Raises:
        UserError: naming both numbers.
    """
    record = read_run(spec.folder)
    if spec.overwrite or record is None or latest_checkpoint(spec.folder) is None:
        return
    before = next((it["batch_parts"] for it in record["sessions"][::-1] if "batch_parts" in it), parts)
    if record["status"] != "finished" and before != parts:
        raise UserError(
            f"{spec.folder} holds an interrupted run whose batches are in {before} part(s), now there would "
            f"be {parts}: the number of devices times `accumulate`, on which the result depends.\n"
            f"Resume it with devices and `accumulate` whose product is {before}, use --overwrite to start "
            "from scratch, or give another --work-dir."
        )


def _build_runner(
    spec: TrainingSpec, components: Components, stop: StopOnSignal, progress: ProgressBar
) -> QuietRunner:
    options, config = spec.options, spec.config
    val_set = coco_dataset(spec.val.json_path, spec.val.images_root, config["test_pipeline"])
    return QuietRunner(
        work_dir=spec.folder,
        model=components.model,
        train_dataloader=components.dataloader,
        train_cfg={
            **loop(options.accumulate, options.seed),
            "max_iters": options.iterations,
            "val_interval": options.validate_every,
        },
        optim_wrapper=optim_wrapper(config["optim_wrapper"], options.precision, options.accumulate),
        param_scheduler=schedulers(config.get("param_scheduler", []), options.iterations),
        val_dataloader=eval_dataloader(val_set, workers=options.workers),
        val_cfg={},
        val_evaluator=Evaluator(MaskAPMetric(spec.val)),
        default_hooks=default_hooks(every=options.checkpoint_every, keep=options.keep_checkpoints),
        custom_hooks=[
            SeedEachStep(options.seed),
            MetricsHook(spec.folder, options.log_every, progress),
            RecoverFromNaN(),
            stop,
            WatchDisk(options.keep_checkpoints),
            *ema_hooks(options.ema, spec.average_from),
            *config.get("custom_hooks", []),
            *components.hooks,
            *_selection(spec),
        ],
        visualizer=visualizer(options.logger),
        randomness={"seed": options.seed, "deterministic": options.deterministic},
        cfg=runner_switches(config, spec.folder, options.accumulate),
    )


def _set_weights(runner: QuietRunner, spec: TrainingSpec, classes: tuple[str, ...], record: RunRecord) -> int:
    """Take the weights from an interrupted run, a file, or at random; returns the iterations done so far.

    Tensors that a file lacks, or that do not fit, stay random.
    """
    checkpoint = on_first_rank(lambda: latest_checkpoint(spec.folder))
    if checkpoint is not None:
        console.progress.print(f"Resuming from {checkpoint}", soft_wrap=True)
        runner.resume_from(checkpoint)
        return step_of(checkpoint)
    network, trust, init_from = runner.network, spec.trust_checkpoint, spec.options.init_from
    weights = None
    if init_from is not None and not init_from.startswith(TORCHVISION):
        weights = read_weights(init_from, trust=trust)
        if holds_backbone(network, weights) and "checkpoint" in (network.backbone.init_cfg or ()):
            network.backbone.init_cfg = None  # nothing is fetched that would be replaced
    named = _named_files(network)
    for path in _kept_here(named):
        load_checkpoint(path, trust=trust)  # says what is wrong with it; mmengine reads it as it is
    with no_code_from(f"{', '.join(named)}, which an init_cfg of the model names,", trust=trust):
        network.init_weights()
    if weights is not None:
        console.progress.print(initialize(network, weights, classes), soft_wrap=True)
        record.note(initial_weights=weights.file.digest())
    return 0


def _train(runner: QuietRunner, folder: Path) -> None:
    """Train to the last iteration, or until a hook of the config stops the training, and validate."""
    runner.train()
    save_now(runner, runner.iter)  # exists, unless a hook stopped it
    validated = on_first_rank(lambda: [found["step"] for found in validations(folder)])
    if runner.iter not in validated:  # killed between the last iteration and its validation
        runner.val_loop.run()


def _selection(spec: TrainingSpec) -> list[Hook]:
    """What watches the validations, as `keep` and `patience` ask."""
    hooks: list[Hook] = []
    if spec.options.keep == "best":
        hooks.append(KeepBest(spec.folder, partial(_write_network, spec)))
    if spec.options.patience is not None:
        hooks.append(StopWithoutGain(spec.folder, spec.options.patience))
    return hooks


def _write_weights(spec: TrainingSpec) -> None:
    """The (EMA) weights of the last checkpoint, or of the best validation, for what follows."""
    last = latest_checkpoint(spec.folder)
    assert last is not None  # the last iteration is always saved
    source = spec.folder / BEST_SO_FAR if spec.options.keep == "best" else last
    _write_network(spec, spec.folder / WEIGHTS, read_weights(source).tensors, json.dumps(_validation(spec)))


def _write_network(spec: TrainingSpec, path: Path, tensors: Mapping[str, Tensor], validation: str) -> None:
    own = {name: value for name, value in tensors.items() if not name.startswith(TRAINING_ONLY)}
    classes = tuple(spec.train.class_names)
    write_weights(path, own, classes, config=spec.config_name, validation=validation)


def _result(spec: TrainingSpec) -> dict[str, Any]:
    """The validation of the final weights, and the mean time of an iteration."""
    return {**_validation(spec), **mean_over_steps(spec.folder, ("seconds_per_step", "sam_seconds"))}


def _validation(spec: TrainingSpec) -> dict[str, Any]:
    if spec.options.keep == "best":
        return best_validation(spec.folder)
    return validations(spec.folder)[-1]


def _named_files(network: nn.Module) -> list[str]:
    """Files and addresses that mmengine initializes parts of a network from."""
    given = [getattr(module, "init_cfg", None) for module in network.modules()]
    return [part["checkpoint"] for part in given if isinstance(part, dict) and "checkpoint" in part]


def _kept_here(named: Sequence[str]) -> Iterator[Path]:
    """The files behind these names, but for addresses whose file was not fetched yet."""
    for name in named:
        if "://" not in name:
            yield Path(name).expanduser()
        else:
            last = name.rpartition("/")[2]
            yield from torch_checkpoints().glob(f"{last}-*.pth" if name.startswith(TORCHVISION) else last)
