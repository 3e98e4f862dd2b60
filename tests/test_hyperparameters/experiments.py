"""The paper's experiments, with what their configs build."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.published import CITYSCAPES, COCO

BENCHMARKS = {"cityscapes": CITYSCAPES, "coco": COCO}
NUM_CLASSES = {"cityscapes": 8, "coco": 80}


@dataclass(frozen=True)
class Built:
    """An experiment of the paper with what its config builds."""

    name: str
    options: Options
    config: dict[str, Any] = field(repr=False)
    network: nn.Module = field(repr=False)
    """On the meta device."""
