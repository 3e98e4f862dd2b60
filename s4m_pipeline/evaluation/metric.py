"""Mask AP during training, as a metric of mmengine's evaluator, which gathers the results of all ranks."""

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric

from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.evaluation.mask_ap import coco_results, mask_ap


class MaskAPMetric(BaseMetric):
    """Mask AP of the predictions of a validation pass.

    Args:
        truth: the annotated images.
    """

    default_prefix = ""

    def __init__(self, truth: CocoData) -> None:
        super().__init__(collect_device="cpu")
        self.truth = truth
        self.category_ids = [category.id for category in truth.categories]

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Collect the predictions of a batch as run-length encodings."""
        for sample in data_samples:
            found = sample["pred_instances"]
            self.results.append(coco_results(sample["img_id"], sample["ori_shape"], self.category_ids, found))

    def compute_metrics(self, results: list[list[dict[str, Any]]]) -> dict[str, float]:
        """AP, AP50 and AP75 in percent; 0 if undefined."""
        found = mask_ap(self.truth, [prediction for image in results for prediction in image])
        return {name: getattr(found, name) or 0.0 for name in ("AP", "AP50", "AP75")}
