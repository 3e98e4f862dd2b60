"""Predictions as COCO results, written one image at a time, and as pictures."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s4m_cache.atomic import atomic_path, write_text
from s4m_cache.segmentation import encode
from s4m_pipeline.apps.predict.predictor import Detections
from s4m_pipeline.core.paths import PREDICTED_IMAGES, PREDICTIONS
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.visual.painting import paint

LEAST_SIDE_PX = 768
"""Photos with a shorter longer side are enlarged by a whole factor, so that text on them is readable."""


class ResultsFile:
    """Appends the objects of each image; label k has the category id k + 1."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.count = 0
        """Objects so far."""

    def add(self, image_id: int, found: Detections) -> None:
        """Write an image's objects.

        They have no `bbox`: pycocotools would use the area of the box instead of the mask's.
        """
        segmentations = encode(found.packed, *found.image_hw_px)
        columns = found.labels.tolist(), found.scores.tolist(), segmentations
        for label, score, rle in zip(*columns, strict=True):
            result = {"image_id": image_id, "category_id": label + 1, "score": score, "segmentation": rle}
            self._file.write((",\n" if self.count else "\n") + json.dumps(result))
            self.count += 1


@contextmanager
def results_file(folder: Path) -> Iterator[ResultsFile]:
    """The predictions.json of a folder, which appears only when it is complete."""
    with atomic_path(folder / PREDICTIONS) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        yield ResultsFile(file)
        file.write("\n]\n")


def write_images(folder: Path, images: Sequence[CocoImage], classes: Sequence[str]) -> None:
    """Write images.json: the images of predictions.json as a COCO file without annotations."""
    document = {
        "images": [
            {"id": image.id, "file_name": image.file_name, "width": image.width, "height": image.height}
            for image in images
        ],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(classes)],
        "annotations": [],
    }
    write_text(folder / PREDICTED_IMAGES, json.dumps(document) + "\n")


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
