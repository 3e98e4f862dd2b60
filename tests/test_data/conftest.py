"""A small real data set on disk, to be damaged one way per test."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 24, 16


class DataSet:
    """Four PNG images in `images/`, two classes with sparse ids, one polygon and one RLE per image."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.json_path = folder / "set.json"
        self.images = folder / "images"
        (self.images / "sub").mkdir(parents=True)
        rng = np.random.default_rng(seed)
        self.document: dict[str, Any] = {
            "images": [
                {"id": 10 * k + 10, "file_name": name, "width": WIDTH, "height": HEIGHT}
                for k, name in enumerate(("a.png", "b.png", "sub/c.png", "sub/d.png"))
            ],
            "annotations": [],
            "categories": [{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}],
        }
        for image in self.document["images"]:
            pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.images / image["file_name"])
            self.annotate(image["id"], 3, [[2, 2, 8, 2, 8, 6]])
            self.annotate(
                image["id"], 17, {"size": [HEIGHT, WIDTH], "counts": [16, 4, 364]}, bbox=[1, 0, 1, 4], area=4
            )

    def annotate(self, image_id: int, category_id: int, segmentation: Any, **changes: Any) -> None:
        """Append an annotation with the next id; `changes` replace its fields."""
        annotation = {
            "id": len(self.document["annotations"]) + 1,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": [2, 2, 6, 4],
            "area": 12.0,
            "iscrowd": 0,
            "segmentation": segmentation,
        }
        self.document["annotations"].append({**annotation, **changes})

    def image_path(self, index: int) -> Path:
        return self.images / self.document["images"][index]["file_name"]

    def write(self) -> Path:
        self.json_path.write_text(json.dumps(self.document))
        return self.json_path


@pytest.fixture
def data_set(tmp_path) -> DataSet:
    return DataSet(tmp_path / "train")


@pytest.fixture
def validation_set(tmp_path) -> DataSet:
    """Other pixels under the same names and ids: no leak."""
    return DataSet(tmp_path / "val", seed=1)
