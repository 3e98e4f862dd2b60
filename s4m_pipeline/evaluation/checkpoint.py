"""What a checkpoint predicts for a split of the data."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.runner import Runner
from rich.progress import track

from s4m_pipeline import console
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.engine.checkpoint import Weights
from s4m_pipeline.engine.parts import coco_dataset, eval_dataloader
from s4m_pipeline.evaluation.mask_ap import coco_results
from s4m_pipeline.models.load import load_network


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
