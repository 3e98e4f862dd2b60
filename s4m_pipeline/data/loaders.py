"""Configs of data sets and loaders, as mmengine's Runner builds them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from s4m_pipeline.core.signals import ignore_external_signals
from s4m_pipeline.data.seeding import SeededDataset, SeededSampler


def coco_dataset(annotations: Path, images: Path, pipeline: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Config of a COCO data set with its transforms."""
    from s4m_pipeline.data.dataset import CocoInstances

    return {
        "type": CocoInstances,
        "annotations": str(annotations),
        "images": str(images.absolute()),
        "pipeline": list(pipeline),
    }


def train_dataloader(
    dataset: Mapping[str, Any], *, batch_size: int, workers: int, seed: int
) -> dict[str, Any]:
    """Config of an endless loader whose batches depend on `seed` and the iteration alone."""
    from s4m_pipeline.data.dataset import collate_instances

    return {
        "dataset": {"type": SeededDataset, "dataset": dataset},
        "sampler": {"type": SeededSampler, "seed": seed},
        "batch_size": batch_size,
        "collate_fn": {"type": collate_instances},
        **loader_processes(workers),
    }


def eval_dataloader(dataset: Mapping[str, Any], *, workers: int) -> dict[str, Any]:
    """Config of a loader of each image once, in order; batch size 1, because sizes differ."""
    return {
        "dataset": {**dataset, "test_mode": True},
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "batch_size": 1,
        **loader_processes(workers),
    }


def loader_processes(workers: int) -> dict[str, Any]:
    """Settings of a loader that reads images in `workers` processes; 0: in the main process."""
    return {
        "num_workers": workers,
        "pin_memory": torch.cuda.is_available(),  # images are then copied to the GPU while it computes
        "persistent_workers": workers > 0,
        "worker_init_fn": {"type": ignore_external_signals},
    }
