"""One training from start to end: what the stages of teacher and student share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from torch import nn

from s4m_pipeline import console
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.engine import parts as build
from s4m_pipeline.engine.checkpoint import (
    TORCHVISION,
    initialise,
    latest_checkpoint,
    no_code_from,
    read_weights,
    step_of,
    write_weights,
)
from s4m_pipeline.engine.distributed import on_first_rank
from s4m_pipeline.engine.hooks import MetricsHook, RecoverFromNaN, StopOnSignal
from s4m_pipeline.engine.metrics import last_validation, mean_over_steps
from s4m_pipeline.engine.progress import TrainingProgress
from s4m_pipeline.engine.runner import QuietRunner
from s4m_pipeline.engine.seeding import SeedEachStep
from s4m_pipeline.evaluation.metric import MaskAPMetric
from s4m_pipeline.layout import METRICS
from s4m_pipeline.options.groups import TrainOptions


class Training:
    """mmengine's Runner with our hooks: it resumes, survives NaN, stops on signals and ends with weights.

    Args:
        options: how long and how carefully.
        config: the whole config; its parts for mmengine are taken from it.
        folder: of the stage.
        model: config of the network.
        dataloader: config of the training data.
        classes: class names in the order of the labels.
        val: what is validated on.
        average_from: step at which the average of the weights begins as a copy of them (`options.ema`).
        hooks: further hooks, called after all others.

    Attributes:
        runner: the Runner.
        stop: what has heard the signals.
    """

    def __init__(
        self,
        options: TrainOptions,
        config: Mapping[str, Any],
        folder: Path,
        *,
        model: dict[str, Any],
        dataloader: dict[str, Any],
        classes: Sequence[str],
        val: CocoData,
        average_from: int = 0,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.options = options
        self.folder = folder
        self.classes = tuple(classes)
        self.stop = StopOnSignal()
        self.progress = TrainingProgress(console.progress, options.iterations)
        val_set = build.coco_dataset(val.json_path, val.images_root, config["test_pipeline"])
        self.runner = QuietRunner(
            work_dir=folder,
            model=model,
            train_dataloader=dataloader,
            train_cfg={
                "by_epoch": False,
                "max_iters": options.iterations,
                "val_interval": options.validate_every,
            },
            optim_wrapper=build.optim_wrapper(config["optim_wrapper"], options.precision),
            param_scheduler=build.schedulers(config.get("param_scheduler", []), options.iterations),
            val_dataloader=build.eval_dataloader(val_set, workers=options.workers),
            val_cfg={},
            val_evaluator=Evaluator(MaskAPMetric(val)),
            default_hooks=build.default_hooks(every=options.checkpoint_every, keep=options.keep_checkpoints),
            custom_hooks=[
                SeedEachStep(options.seed),
                MetricsHook(folder / METRICS, options.log_every, self.progress),
                RecoverFromNaN(),
                self.stop,
                *build.ema_hooks(options.ema, average_from),
                *config.get("custom_hooks", []),
                *hooks,
            ],
            visualizer=build.visualizer(tensorboard=options.tensorboard),
            randomness={"seed": options.seed, "deterministic": options.deterministic},
            cfg=build.runner_switches(config),
        )

    def start(self, *, trust: bool) -> int:
        """Take the weights from an interrupted run, a file, or chance; returns the steps done already.

        Args:
            trust: files of initial weights may run code.

        Raises:
            UserError: as `read_weights` and `initialise`; what does not fit is left to chance.
        """
        checkpoint = latest_checkpoint(self.folder)
        if checkpoint is not None:
            console.progress.print(f"Going on from {checkpoint}", soft_wrap=True)
            self.runner.resume_from(checkpoint)
            return step_of(checkpoint)
        network = self.runner.network
        with no_code_from(f"{_named_files(network)}, which an init_cfg of the model names,", trust=trust):
            network.init_weights()
        init_from = self.options.init_from
        if init_from is not None and not init_from.startswith(TORCHVISION):
            taken = initialise(network, read_weights(Path(init_from), trust=trust), self.classes)
            console.progress.print(taken, soft_wrap=True)
        return 0

    def run(self, weights: Path, *, omit: str | None = None, **about: str) -> dict[str, Any]:
        """Train to the last step, validate, and write the (averaged) weights for what comes next.

        Args:
            weights: file to write.
            omit: beginning of the names of weights that are of no use afterwards.
            about: texts for the header of that file.

        Returns:
            The last validation and the mean time of a step.

        Raises:
            Interrupted: after a signal, when all is saved.
        """
        metrics = self.folder / METRICS
        with self.stop.listening(), self.progress:
            self.runner.train()
            validated = on_first_rank(lambda: last_validation(metrics).get("step"))
            if validated != self.runner.max_iters:  # killed between the last step and its validation
                self.runner.val_loop.run()
            on_first_rank(lambda: self._write_weights(weights, omit, about))
        return on_first_rank(
            lambda: {
                **last_validation(metrics),
                **mean_over_steps(metrics, ("seconds_per_step", "sam_seconds")),
            }
        )

    def _write_weights(self, path: Path, omit: str | None, about: Mapping[str, str]) -> None:
        checkpoint = latest_checkpoint(self.folder)
        assert checkpoint is not None  # the last step is always saved
        tensors = read_weights(checkpoint).tensors
        if omit is not None:
            tensors = {name: value for name, value in tensors.items() if not name.startswith(omit)}
        write_weights(path, tensors, self.classes, **about)


def _named_files(network: nn.Module) -> str:
    """Files and addresses that mmengine initialises parts of a network from."""
    given = [getattr(module, "init_cfg", None) for module in network.modules()]
    return ", ".join(part["checkpoint"] for part in given if isinstance(part, dict) and "checkpoint" in part)


def device_name() -> str:
    """Name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
