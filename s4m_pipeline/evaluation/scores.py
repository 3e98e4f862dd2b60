"""All scores of a checkpoint's predictions."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.evaluation.cityscapes import CityscapesAP
from s4m_pipeline.evaluation.mask_ap import MaskAP, mask_ap
from s4m_pipeline.evaluation.merging import merged_rate_of_results


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
