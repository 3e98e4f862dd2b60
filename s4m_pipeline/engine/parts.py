"""What the Runner is built from: our settings turned into mmengine's config dicts."""

import copy
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from s4m_pipeline.engine.checkpoint import ATOMIC, TORCHVISION
from s4m_pipeline.errors import UserError
from s4m_pipeline.signals import heed_parent_alone
from s4m_pipeline.student.labels import Labels

PRELOAD_BYTES = 256 << 20
"""Packed masks that each loading process keeps in memory: all of Cityscapes' (0.12 GB), part of COCO's."""


def model_config(model: Mapping[str, Any], num_classes: int, init_from: str | None = None) -> ConfigDict:
    """A Mask2Former config with everything filled in that follows from the number of object classes.

    The class weight of "no object" is 0.1 (Mask2Former; S4M keeps it).

    Args:
        init_from: initial weights; `torchvision://NAME` is left to mmdet, which fetches the backbone.
    """
    model = ConfigDict(copy.deepcopy(dict(model)))  # mmdet's constructors need mmengine's kind of dict
    if init_from is not None and init_from.startswith(TORCHVISION):
        model["backbone"]["init_cfg"] = {"type": "Pretrained", "checkpoint": init_from}
    for part in ("panoptic_head", "panoptic_fusion_head"):
        model[part].update(num_things_classes=num_classes, num_stuff_classes=0)
    model["panoptic_head"]["loss_cls"]["class_weight"] = [1.0] * num_classes + [0.1]
    return model


def coco_dataset(annotations: Path, images: Path, pipeline: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Config of a COCO data set with its transforms."""
    return {
        "type": "CocoInstances",
        "annotations": str(annotations.absolute()),
        "images": str(images.absolute()),
        "pipeline": list(pipeline),
    }


def train_dataloader(
    dataset: Mapping[str, Any], *, batch_size: int, workers: int, seed: int
) -> dict[str, Any]:
    """Config of an endless loader whose batches depend on `seed` and the step alone."""
    return {
        "dataset": {"type": "SeededDataset", "dataset": dataset},
        "sampler": {"type": "SeededSampler", "seed": seed},
        "batch_size": batch_size,
        "collate_fn": {"type": "collate_instances"},
        **_processes(workers),
    }


def pseudo_label_dataset(
    labels: Labels, classes: Sequence[str], pipeline: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Config of `PseudoLabelledImages`: the unlabelled images, and the labelled images' transforms."""
    unlabeled = labels.unlabeled
    return {
        "type": "PseudoLabelledImages",
        "source": str(unlabeled.source.absolute()),
        "images": str(unlabeled.images_root.absolute()),
        "cache": str(labels.root.absolute()),
        "classes": list(classes),
        "pipeline": list(pipeline),
        "preload_bytes": PRELOAD_BYTES,
    }


def two_branch_dataloader(
    labeled: Mapping[str, Any],
    unlabeled: Mapping[str, Any],
    *,
    batch_sizes: tuple[int, int],
    workers: int,
    seed: int,
) -> dict[str, Any]:
    """Config of an endless loader of labelled and unlabelled images in fixed shares, as `train_dataloader`.

    Args:
        batch_sizes: labelled and unlabelled images of a step, on this rank.
    """
    return {
        "dataset": {"type": "TwoBranchDataset", "labeled": labeled, "unlabeled": unlabeled},
        "sampler": {
            "type": "TwoBranchSampler",
            "seed": seed,
            "labeled": batch_sizes[0],
            "unlabeled": batch_sizes[1],
        },
        "batch_size": sum(batch_sizes),
        "collate_fn": {"type": "collate_instances"},
        **_processes(workers),
    }


def eval_dataloader(dataset: Mapping[str, Any], *, workers: int) -> dict[str, Any]:
    """Config of a loader that gives each image once, one at a time (sizes differ), in order."""
    return {
        "dataset": {**dataset, "test_mode": True},
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "batch_size": 1,
        **_processes(workers),
    }


def _processes(workers: int) -> dict[str, Any]:
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "worker_init_fn": {"type": heed_parent_alone},
    }


def optim_wrapper(config: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Config of the optimizer wrapper that skips non-finite steps, in `precision` where there is a GPU.

    Args:
        config: mmengine's `optimizer`, `paramwise_cfg`, `clip_grad`, `accumulative_counts`.
        precision: "fp32", "bf16" or "fp16".
    """
    defaults = {"clip_grad": {"max_norm": float("inf")}, "constructor": "MergedGroups"}
    parts = {**defaults, **copy.deepcopy(dict(config))}
    if precision == "fp32" or not torch.cuda.is_available():
        return {**parts, "type": "FiniteOptimWrapper"}
    # bf16 has the range of fp32 and needs no scale; scale 1 keeps the scaler's check for NaN and Inf.
    scale = {"bf16": 1.0, "fp16": "dynamic"}[precision]
    dtype = {"bf16": "bfloat16", "fp16": "float16"}[precision]
    return {**parts, "type": "FiniteAmpOptimWrapper", "dtype": dtype, "loss_scale": scale}


def schedulers(config: Sequence[Mapping[str, Any]], iterations: int) -> list[dict[str, Any]] | None:
    """Learning-rate schedules by iteration; one that names no `end` ends with the training."""
    return [{"by_epoch": False, "end": iterations, **part} for part in config] or None


def default_hooks(*, every: int, keep: int) -> dict[str, Any]:
    """Config of mmengine's standard hooks: the last `keep` checkpoints and the one of best mask AP are saved.

    Its loggers are left out: they keep every value since the first step and store them in each checkpoint.
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
            "save_best": "AP",
            "rule": "greater",
            "backend_args": ATOMIC,
        },
    }


def ema_hooks(keep: float | None, begin: int = 0) -> list[dict[str, Any]]:
    """Config of the weight average that is validated and saved.

    Buffers of the average are those of the network.

    Args:
        keep: share of the old average at each step; None: no averaging.
        begin: the step that copies the weights into the average; until then both are the same.
    """
    if keep is None:
        return []
    return [{"type": "EMAHook", "momentum": 1 - keep, "begin_iter": begin}]


def visualizer(*, tensorboard: bool) -> dict[str, Any]:
    """Config of mmengine's metric sink besides metrics.jsonl.

    Raises:
        UserError: if TensorBoard is asked for and not installed.
    """
    if tensorboard and find_spec("tensorboard") is None:
        raise UserError(
            "The setting `tensorboard` of this training is on, but TensorBoard is not installed.\n"
            'Install it with pip install "s4m-pipeline[tensorboard]", or leave it off: metrics.jsonl'
            " is written in any case."
        )
    return {"type": "Visualizer", "vis_backends": [{"type": "TensorboardVisBackend"}] if tensorboard else []}


def runner_switches(config: Mapping[str, Any]) -> Config:
    """The settings that mmengine's Runner looks up by itself.

    On several GPUs, BatchNorm layers in training take the statistics of all devices' images, as on one. On
    the CPU, where torch cannot, each process takes its own, and rank 0 hands its running statistics to all.
    """
    switches = {key: config[key] for key in ("compile", "activation_checkpointing") if key in config}
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        switches["sync_bn"] = "torch"
    switches["model_wrapper_cfg"] = {
        "type": "MMDistributedDataParallel",
        "device_ids": [torch.cuda.current_device()] if on_gpu else None,
        "broadcast_buffers": True,
    }
    return Config(switches)
