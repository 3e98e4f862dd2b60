"""Pictures of predictions: masks tinted and outlined, with class and score."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s4m_pipeline.painting import paint
from s4m_pipeline.predict.predictor import Detections

LEAST_SIDE_PX = 768
"""A photo whose longer side is less is enlarged by a whole factor, so that text on it can be read."""


def draw_overlay(photo: NDArray[np.uint8], found: Detections, classes: Sequence[str]) -> Image.Image:
    """Photo with its objects, a colour each; the most certain ones lie on top.

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
    return paint(enlarged, found.masks, texts, range(len(found)))
