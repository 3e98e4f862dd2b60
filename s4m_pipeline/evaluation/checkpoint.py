"""Mask AP of a checkpoint, and the file in which an experiment keeps such results."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner
from rich.progress import track

from cache.atomic import write_text
from cache.fingerprint import file_hash
from s4m_pipeline import console
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.engine.checkpoint import Weights
from s4m_pipeline.engine.parts import coco_dataset, eval_dataloader
from s4m_pipeline.evaluation.mask_ap import MaskAP, coco_results
from s4m_pipeline.models.load import load_network

EVALUATION = "evaluation.json"
"""In the experiment's folder: results by split and stage, as `s4m evaluate --json` prints them."""


def predict_split(
    parts: Mapping[str, Any], weights: Weights, truth: CocoData, workers: int
) -> list[dict[str, Any]]:
    """What a checkpoint finds in the images of a split, as COCO results.

    Args:
        parts: the whole config as plain values.
        workers: processes that load images.

    Raises:
        UserError: if the weights do not fit the network.
    """
    network = load_network(parts, weights, len(truth.categories))
    dataset = coco_dataset(truth.json_path, truth.images_root, parts["test_pipeline"])
    loader = Runner.build_dataloader(eval_dataloader(dataset, workers=workers))
    category_ids = [category.id for category in truth.categories]
    predictions: list[dict[str, Any]] = []
    with torch.inference_mode():
        for batch in track(loader, "Predicting", console=console.progress, transient=True):
            for sample in network.test_step(batch):
                predictions += coco_results(sample.img_id, category_ids, sample.pred_instances)
    return predictions


def as_record(result: MaskAP, merged: float) -> dict[str, Any]:
    """A result as JSON values; `merged` is the rate in percent, NaN where there is none."""
    return {**dataclasses.asdict(result), "merged_rate": None if math.isnan(merged) else merged}


def keep_result(experiment: Path, split: str, stage: str, weights: Path, result: Mapping[str, Any]) -> None:
    """Enter a result into the experiment's file, in place of an earlier one of the same split and stage."""
    content = _read(experiment)
    content.setdefault(split, {})[stage] = {**result, "weights": file_hash(weights)}
    write_text(experiment / EVALUATION, json.dumps(content, indent=2) + "\n")


def kept_result(experiment: Path, split: str, stage: str, weights: Path) -> dict[str, Any] | None:
    """The result of these very weights, if it was kept."""
    found: dict[str, Any] | None = _read(experiment).get(split, {}).get(stage)
    return found if found and found.get("weights") == file_hash(weights) else None


def _read(experiment: Path) -> dict[str, Any]:
    path = experiment / EVALUATION
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content
