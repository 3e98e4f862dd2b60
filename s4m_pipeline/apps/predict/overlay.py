"""Pictures of predictions: tinted and outlined masks with class and score."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s4m_pipeline.apps.predict.predictor import Detections
from s4m_pipeline.visual.painting import paint

LEAST_SIDE_PX = 768
"""Photos with a shorter longer side are enlarged by a whole factor, so that text on them is readable."""


def draw_overlay(photo: NDArray[np.uint8], found: Detections, classes: Sequence[str]) -> Image.Image:
    """Photo with its objects, one color each; the most confident ones on top.

    Args:
        photo: uint8 RGB (H, W, 3).
        found: its objects.
        classes: names by label.

    Returns:
        RGB picture of the photo's size, or of a multiple if the photo is small.
    """
    factor = max(1, -(-LEAST_SIDE_PX // max(photo.shape[:2])))
    height, width = (side * factor for side in photo.shape[:2])
    enlarged = np.array(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC), np.uint8)
    texts = [
        f"{classes[label]} {score:.2f}"
        for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True)
    ]
    return paint(enlarged, found.each_mask(), texts, range(len(found)))
