"""What pseudo-labels depend on besides the teacher, SAM and the image; imports no torch."""

from dataclasses import dataclass
from typing import Literal, get_args

PromptType = Literal["points", "points_softmax", "point_centre", "point_confident", "box", "mask"]
PROMPT_TYPES: tuple[PromptType, ...] = get_args(PromptType)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which queries are kept and how SAM is asked; the defaults are the paper's."""

    prompt: PromptType | None = "points"
    """How SAM is asked for each mask; None keeps the teacher's masks (see docs/refine.md)."""
    points: int = 3
    """K: points drawn per mask, for `points` and `points_softmax`."""
    min_score: float = 0.7
    """Class confidence that a query must exceed."""
    min_soft_area: float = 5.0
    """Sum of a mask's probabilities that a query must exceed, in cells of the teacher's stride-4 mask."""
    nms_iou: float | None = None
    """Drop a query whose mask overlaps a more confident one's with at least this IoU. None: keep all."""
    seed: int = 0
    """With the generation and the image id, decides which points are drawn."""
