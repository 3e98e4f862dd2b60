"""Mask AP during training, through mmengine's evaluator (which gathers the results of all ranks)."""

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.evaluation.mask_ap import coco_results, mask_ap


@METRICS.register_module()
class MaskAPMetric(BaseMetric):
    """Collects predictions of a validation pass and computes their mask AP.

    Args:
        truth: the annotated images.
    """

    default_prefix = ""

    def __init__(self, truth: CocoData) -> None:
        super().__init__(collect_device="cpu")
        self.truth = truth
        self.category_ids = [category.id for category in truth.categories]

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the predictions of some images as run-length encodings."""
        for sample in data_samples:
            self.results.append(coco_results(sample["img_id"], self.category_ids, sample["pred_instances"]))

    def compute_metrics(self, results: list[list[dict[str, Any]]]) -> dict[str, float]:
        """AP, AP50 and AP75 in percent; an undefined one counts as 0."""
        found = mask_ap(self.truth, [prediction for image in results for prediction in image])
        return {name: getattr(found, name) or 0.0 for name in ("AP", "AP50", "AP75")}
