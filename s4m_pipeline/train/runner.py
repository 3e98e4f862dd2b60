"""mmengine's Runner with a quiet console and safe checkpoints, and the configs that it is built from."""

import copy
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner

from s4m_pipeline.config.groups import Logger
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import RUN
from s4m_pipeline.models.checkpoint import ATOMIC
from s4m_pipeline.models.unpickling import load_checkpoint
from s4m_pipeline.train.optim import FewOperationsEma, FiniteAmpOptimWrapper, FiniteOptimWrapper, MergedGroups

_MLFLOW_SERVER = os.environ.get("MLFLOW_TRACKING_URI")
"""Read before any training: MLflow sets the variable to where it last wrote."""


class QuietRunner(Runner):
    """A Runner that logs to `log/train.log` instead of the console and loads checkpoints safely.

    Args:
        work_dir: folder of the stage.
        parts: keyword arguments of mmengine's Runner.
    """

    timestamp = "log"  # mmengine's name for the folder of the log: the same whenever the run is resumed

    def __init__(self, *, work_dir: Path, **parts: Any) -> None:
        # A unique name, because mmengine keeps loggers and message hubs by name for the life of the process.
        super().__init__(
            work_dir=str(work_dir),
            experiment_name=f"{work_dir.name}-{uuid.uuid4().hex[:8]}",
            default_scope="mmdet",
            # Several processes have joined by now; any launcher tells mmengine not to start them again.
            launcher="pytorch" if is_distributed() else "none",
            **parts,
        )

    @property
    def network(self) -> BaseModel:
        """The model without the wrapper for distributed training."""
        network: BaseModel = self.model.module if is_model_wrapper(self.model) else self.model
        return network

    def build_logger(
        self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any
    ) -> MMLogger:
        """A logger that writes to the file only."""
        logger = super().build_logger(log_level, str(Path(self.work_dir, "log", "train.log")), **kwargs)
        for handler in [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]:
            logger.removeHandler(handler)
        return logger

    def dump_config(self) -> None:
        """Does nothing: run.json holds the config."""

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = False, revise_keys: Any = ()
    ) -> dict[str, Any]:
        """Load model weights and let the hooks read their state, as mmengine does.

        Raises:
            UserError: if the file is damaged or holds code.
        """
        checkpoint = load_checkpoint(Path(filename))
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        self.network.load_state_dict(checkpoint["state_dict"], strict=True)
        return checkpoint

    def resume_from(self, checkpoint: Path) -> None:
        """Continue from a checkpoint when training starts."""
        self._load_from = str(checkpoint)
        self._resume = True

    def restore_weights(self, checkpoint: Path) -> None:
        """Restore weights, EMA weights and optimizer of a checkpoint, but not the number of iterations."""
        self._resume = True  # with it, EMAHook also restores its weights
        saved: Mapping[str, Any] = self.load_checkpoint(str(checkpoint))
        assert self.optim_wrapper is not None  # training has started
        self.optim_wrapper.load_state_dict(saved["optimizer"])


def loop(accumulate: int, seed: int) -> dict[str, Any]:
    """Config of the loop over iterations, whose batches are computed in this many parts."""
    if accumulate == 1:
        return {"by_epoch": False}
    from s4m_pipeline.train.accumulate import AccumulatingLoop  # imports mmdet, whose classes must be known

    return {"type": AccumulatingLoop, "parts": accumulate, "seed": seed}


def optim_wrapper(config: Mapping[str, Any], precision: str, accumulate: int = 1) -> dict[str, Any]:
    """Config of the optimizer wrapper that skips non-finite gradients; uses `precision` on a GPU only.

    Args:
        config: mmengine's `optimizer`, `paramwise_cfg`, `clip_grad`.
        precision: "fp32", "bf16" or "fp16".
        accumulate: parts of a batch, whose gradients are added before each step.

    Raises:
        UserError: if the config accumulates by itself, in iterations without a step.
    """
    if "accumulative_counts" in config:
        raise UserError(
            "optim_wrapper.accumulative_counts is given, with which some iterations make no optimizer step.\n"
            "Use teacher.accumulate and student.accumulate instead."
        )
    config = {**config, "accumulative_counts": accumulate}
    defaults = {"clip_grad": {"max_norm": float("inf")}, "constructor": MergedGroups}
    parts = {**defaults, **copy.deepcopy(dict(config))}
    if precision == "fp32" or not torch.cuda.is_available():
        return {**parts, "type": FiniteOptimWrapper}
    # bf16 has the range of fp32 and needs no scale; scale 1 keeps the scaler's check for NaN and Inf.
    scale = {"bf16": 1.0, "fp16": "dynamic"}[precision]
    dtype = {"bf16": "bfloat16", "fp16": "float16"}[precision]
    return {**parts, "type": FiniteAmpOptimWrapper, "dtype": dtype, "loss_scale": scale}


def schedulers(config: Sequence[Mapping[str, Any]], iterations: int) -> list[dict[str, Any]] | None:
    """Learning-rate schedules by iteration; one without `end` ends with the training."""
    return [{"by_epoch": False, "end": iterations, **part} for part in config] or None


def default_hooks(*, every: int, keep: int) -> dict[str, Any]:
    """Config of mmengine's default hooks: the last `keep` checkpoints are saved.

    Its loggers are left out: they keep all values since the first iteration and store them in checkpoints.
    """
    return {
        "runtime_info": None,
        "timer": None,
        "logger": None,
        "checkpoint": {
            "type": "CheckpointHook",
            "by_epoch": False,
            "interval": every,
            "max_keep_ckpts": keep,
            "backend_args": ATOMIC,
        },
    }


def ema_hooks(keep: float | None, begin: int = 0) -> list[dict[str, Any]]:
    """Config of the EMA model, which is validated and saved in place of the network; it has its buffers.

    Args:
        keep: weight of the old average at each iteration; None: no EMA model.
        begin: iteration at which the EMA model is set to the network's weights; until then both are equal.
    """
    if keep is None:
        return []
    return [{"type": "EMAHook", "ema_type": FewOperationsEma, "momentum": 1 - keep, "begin_iter": begin}]


def visualizer(loggers: Sequence[Logger]) -> dict[str, Any]:
    """Config of mmengine's visualizer, which gets the same metrics as metrics.jsonl.

    MLflow writes to the folder of the training, or to the server of MLFLOW_TRACKING_URI.

    Raises:
        UserError: if the package of a logger is not installed.
    """
    if missing := [name for name in loggers if find_spec(name) is None]:
        raise UserError(
            f"The setting `logger` of this training names {' and '.join(missing)}, not installed here.\n"
            f"Install with pip install {' '.join(missing)}, or change the setting: metrics.jsonl is always "
            "written."
        )
    backends: dict[Logger, dict[str, Any]] = {
        "tensorboard": {"type": "TensorboardVisBackend"},
        "wandb": {"type": "WandbVisBackend"},
        "mlflow": {
            "type": "MLflowVisBackend",
            "tracking_uri": _MLFLOW_SERVER,
            "artifact_suffix": (RUN,),  # by default all texts below the folder, its own files as well
        },
    }
    if "mlflow" in loggers:  # MLflow 3 reads and writes files only if it is told to
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return {"type": "Visualizer", "vis_backends": [backends[name] for name in loggers]}


def runner_switches(config: Mapping[str, Any], folder: Path, accumulate: int) -> Config:
    """The settings that mmengine's Runner and loggers read from its config; `folder` is the training's.

    On several GPUs, BatchNorm layers are synchronized: batch statistics are those of all devices. On the
    CPU, where torch does not support this, each process has its own, and rank 0 broadcasts its buffers.

    Raises:
        UserError: if training steps are to be compiled, but are in parts.
    """
    if config.get("compile") and accumulate > 1:
        raise UserError("compile and accumulate: a batch that is computed in parts is not compiled. Use one.")
    switches = {key: config[key] for key in ("compile", "activation_checkpointing") if key in config}
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        switches["sync_bn"] = "torch"
    switches["model_wrapper_cfg"] = {
        "type": "MMDistributedDataParallel",
        "device_ids": [torch.cuda.current_device()] if on_gpu else None,
        "broadcast_buffers": True,
    }
    return Config({**switches, "work_dir": str(folder)})
