"""Predictions as COCO results, written while they come."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
from pycocotools import mask as coco_mask

from cache.atomic import atomic_path, write_text
from s4m_pipeline.data.coco import CocoImage
from s4m_pipeline.predict.predictor import Detections

PREDICTIONS = "predictions.json"
IMAGES = "images.json"


class ResultsFile:
    """Appends the objects of one image after the other; label k has the category id k + 1."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.count = 0
        """Objects so far."""

    def add(self, image_id: int, found: Detections) -> None:
        """Write an image's objects.

        They have no `bbox`: pycocotools would take the box's area for the mask's.
        """
        for mask, label, score in zip(found.masks, found.labels.tolist(), found.scores.tolist(), strict=True):
            rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
            result = {
                "image_id": image_id,
                "category_id": label + 1,
                "score": score,
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            }
            self._file.write((",\n" if self.count else "\n") + json.dumps(result))
            self.count += 1


@contextmanager
def results_file(folder: Path) -> Iterator[ResultsFile]:
    """The predictions.json of a folder, there only when it is complete."""
    with atomic_path(folder / PREDICTIONS) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        yield ResultsFile(file)
        file.write("\n]\n")


def write_images(folder: Path, images: Sequence[CocoImage], classes: Sequence[str]) -> None:
    """Write images.json: what predictions.json speaks of, as a COCO file without annotations."""
    document = {
        "images": [
            {"id": image.id, "file_name": image.file_name, "width": image.width, "height": image.height}
            for image in images
        ],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(classes)],
        "annotations": [],
    }
    write_text(folder / IMAGES, json.dumps(document) + "\n")
