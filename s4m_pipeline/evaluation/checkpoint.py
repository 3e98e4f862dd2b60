"""Predict a split of the data with a checkpoint, and all scores of the predictions."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.runner import Runner

from s4m_pipeline.core.progress import track
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.loaders import coco_dataset, eval_dataloader
from s4m_pipeline.evaluation.cityscapes import CityscapesAP
from s4m_pipeline.evaluation.mask_ap import MaskAP, coco_results, mask_ap
from s4m_pipeline.evaluation.merging import merged_rate_of_results
from s4m_pipeline.models.checkpoint import Weights
from s4m_pipeline.models.load import load_network


def predict_split(
    config: Mapping[str, Any], weights: Weights, truth: CocoData, workers: int
) -> list[dict[str, Any]]:
    """Predict the images of a split with a checkpoint; returns COCO results.

    Args:
        config: the whole config as plain values.
        workers: processes that load images.

    Raises:
        UserError: if the weights do not fit the network.
    """
    network = load_network(config, weights, len(truth.categories))
    dataset = coco_dataset(truth.json_path, truth.images_root, config["test_pipeline"])
    loader = Runner.build_dataloader(eval_dataloader(dataset, workers=workers))
    category_ids = [category.id for category in truth.categories]
    predictions: list[dict[str, Any]] = []
    with torch.inference_mode():
        for batch in track(loader, len(loader), "Predicting"):
            for sample in network.test_step(batch):
                predictions += coco_results(
                    sample.img_id, sample.ori_shape, category_ids, sample.pred_instances
                )
    return predictions


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a split by `s4m evaluate`, in percent."""

    coco: MaskAP
    merged_rate: float
    """See `merged_instance_rate`; NaN without predictions."""
    cityscapes: CityscapesAP | None = None
    """From the benchmark's evaluator; None if not requested."""

    @classmethod
    def of(cls, truth: CocoData, predictions: Sequence[dict[str, Any]]) -> "Scores":
        """Compare COCO results with the annotated images, without the benchmark."""
        return cls(coco=mask_ap(truth, predictions), merged_rate=merged_rate_of_results(truth, predictions))

    def as_record(self) -> dict[str, Any]:
        """As JSON values; undefined scores are None."""
        record = dataclasses.asdict(self.coco)
        record["merged_rate"] = None if math.isnan(self.merged_rate) else self.merged_rate
        if self.cityscapes:
            record["cityscapes"] = dataclasses.asdict(self.cityscapes)
        return record
