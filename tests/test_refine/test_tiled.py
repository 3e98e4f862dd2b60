"""Labels of images that are larger than a tile."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from s4m_cache.generation import Generation
from s4m_cache.reader import CacheReader
from s4m_pipeline.data.tiles import Tiling
from s4m_pipeline.refine.images import Photo, batches_by_size
from s4m_pipeline.refine.labeler import Labeler
from tests.test_refine.conftest import Refine, assert_same_labels, labels_of

SIDE_PX = 304
OBJECTS = {  # y0, x0, y1, x1 by id, in steps of the teacher's 4 x 4 cells
    1: (8, 12, 60, 292),  # across all columns of tiles
    2: (60, 12, 100, 292),  # touches it
    3: (120, 100, 140, 148),  # across a seam
    4: (160, 20, 292, 48),
    5: (200, 100, 216, 120),
}


@pytest.fixture
def large(experiment: Path, tmp_path: Path) -> str:
    """Setting that replaces the unlabeled images by one of 304 x 304 px, in which red is an object's id."""
    data = tmp_path / "large"
    shutil.copytree(experiment / "data", data)
    pixels = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    for number, (y0, x0, y1, x1) in OBJECTS.items():
        pixels[y0:y1, x0:x1] = number, 40 * number, 200
    document = json.loads((data / "unlabeled.json").read_text())
    entry = document["images"][0]
    Image.fromarray(pixels).save(data / "train" / entry["file_name"])
    document["images"] = [entry | {"width": SIDE_PX, "height": SIDE_PX}]
    (data / "unlabeled.json").write_text(json.dumps(document))
    return f"data.root={data}"


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the teacher's place: it finds the objects that a tile shows, by their color."""

    def queries(self: Labeler, photos: list[Photo], frames: list) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            _queries(photo.pixels[0].long(), frame.grid_hw)
            for photo, frame in zip(photos, frames, strict=True)
        ]

    monkeypatch.setattr(Labeler, "_run_teacher", queries)


def _queries(red: torch.Tensor, grid_hw: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    assert max(red.shape) <= 128
    ids = red.unique()  # with 0 for the background, which becomes "no object"
    masks = F.avg_pool2d((red == ids[:, None, None]).float()[:, None], 4, ceil_mode=True)[:, 0]
    scores = torch.full((len(ids), 6), 1e-6)
    scores[:, 0] = torch.where(ids > 0, 0.9 + ids / 100, 1e-6)
    scores[:, -1] = 1 - scores[:, :-1].sum(1)
    assert masks.shape[1:] == grid_hw
    return scores.log(), 8 * masks - 4


def iou_of(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return (found & expected).sum((1, 2)) / (found | expected).sum((1, 2))


def test_refine__large_image__objects_across_seams_have_one_full_size_label(
    refine: Refine, large: str, teacher: None, tmp_path: Path
) -> None:
    settings = (large, "tiles.size_px=128", "tiles.overlap_px=40", "refine.min_score=0.5")
    refine("plain", *settings, "refine.prompt=none")
    refine("refined", *settings, "refine.prompt=box")
    with CacheReader(Generation(tmp_path / "plain/cache", 1)) as reader:
        (image_id,) = reader.image_ids.tolist()
        labels = reader.read(image_id)
    expected = np.zeros((len(OBJECTS), SIDE_PX, SIDE_PX), bool)
    for mask, (y0, x0, y1, x1) in zip(expected, reversed(OBJECTS.values()), strict=True):
        mask[y0:y1, x0:x1] = True
    assert (labels.height, labels.width) == (SIDE_PX, SIDE_PX)
    assert iou_of(labels.dense(), expected).min() > 0.98  # 4 x 4 cells have no sharp corners
    np.testing.assert_allclose(labels.instances.scores, [0.95, 0.94, 0.93, 0.92, 0.91], atol=1e-4)
    with CacheReader(Generation(tmp_path / "refined/cache", 1)) as reader:
        refined = reader.read(image_id, raw=True).instances
    window = (0, 0, SIDE_PX, SIDE_PX)
    np.testing.assert_array_equal(refined.raw_masks.dense(window), labels.dense())
    masks = refined.refined_masks.dense(window)
    assert not np.array_equal(masks, labels.dense())
    assert iou_of(masks, expected).mean() > 0.6 and iou_of(masks, expected).min() > 0.3
    assert ((refined.pred_ious > 0) & (refined.pred_ious <= 1)).all()


def test_refine__tile_as_large_as_the_images__changes_no_label(refine: Refine, tmp_path: Path) -> None:
    refine("whole")
    refine("tiled", "tiles.size_px=160")
    assert_same_labels(tmp_path / "whole/cache", tmp_path / "tiled/cache")


def test_refine__shipped_networks__label_tiled_images_the_same_whatever_the_batch(
    refine: Refine, tmp_path: Path
) -> None:
    refine("one", "tiles.size_px=64", "refine.batch_size=1")
    refine("four", "tiles.size_px=64", "refine.batch_size=4")
    assert_same_labels(tmp_path / "one/cache", tmp_path / "four/cache")
    for columns in labels_of(tmp_path / "one/cache").values():
        (height, width), boxes = columns["image_hw"][0], columns["bbox"]
        assert (boxes[:, 2] <= height).all() and (boxes[:, 3] <= width).all()
        assert len(boxes) > 0 and boxes[:, 3].max() > 64


def test_batches_by_size__photo_that_is_cut__does_not_wait() -> None:
    photos = [Photo(side, torch.zeros(3, 1, 1), torch.zeros(3, side, 32)) for side in (64, 65, 33, 32)]
    batches = batches_by_size(photos, size=2, divisor=32, tiling=Tiling(64, 16))
    assert [[photo.image_id for photo in batch] for batch in batches] == [[65], [64, 33], [32]]
