"""What `s4m export labels` writes, read by the programs it is for; skipped where one is not installed."""

import csv
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from skimage.io import imread
from skimage.measure import regionprops

from tests.test_data.test_formats import (  # `source` is a fixture
    CLASSES,
    HEIGHT,
    WIDTH,
    best_of_one_line,
    drawn,
    iou,
    s4m,
    source,  # noqa: F401
)

SIZE_HW = (HEIGHT, WIDTH)


def require_drawn(
    found: Iterable[tuple[str, NDArray]], min_iou: Callable[[NDArray[np.bool_]], float] = lambda mask: 1
) -> None:
    """Each drawn object is found once, with its class and at least this IoU."""
    left = [(name, mask > 0) for name, mask in found]
    for class_name, mask in drawn().values():
        best = max(range(len(left)), key=lambda place: iou(left[place][1], mask))
        found_name, found_mask = left.pop(best)
        assert found_name == class_name and iou(found_mask, mask) >= min_iou(mask)
    assert left == []


def test_label_images__scikit_image_finds_every_object(source: Path, tmp_path: Path):  # noqa: F811
    s4m("export", "labels", source, tmp_path / "out", "--format", "label-images")
    values = imread(tmp_path / "out/sub/a.png")
    assert values.dtype == np.uint16 and values.shape == SIZE_HW
    with (tmp_path / "out/classes.csv").open(newline="") as file:
        names = {int(row["id"]): row["class"] for row in csv.DictReader(file) if row["file"] == "sub/a.png"}
    require_drawn([(names[region.label], values == region.label) for region in regionprops(values)])
    assert not imread(tmp_path / "out/b.png").any()


def test_labelme__draws_every_pixel(source: Path, tmp_path: Path):  # noqa: F811
    labelme = pytest.importorskip("labelme", exc_type=ImportError)
    s4m("export", "labels", source, tmp_path / "out", "--format", "labelme")
    shutil.copytree(tmp_path / "images", tmp_path / "out", dirs_exist_ok=True)
    shapes = labelme.LabelFile(str(tmp_path / "out/sub/a.json")).shapes
    numbers = {name: number for number, name in enumerate(CLASSES, 1)}
    class_map, instance_map = labelme.utils.shapes_to_label(SIZE_HW, shapes, numbers)
    masks = [instance_map == number for number in range(1, instance_map.max() + 1)]
    require_drawn([(CLASSES[class_map[mask][0] - 1], mask) for mask in masks])
    assert labelme.LabelFile(str(tmp_path / "out/b.json")).shapes == []


def test_yolo__ultralytics_fills_every_object(source: Path, tmp_path: Path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    dataset = pytest.importorskip("ultralytics.data.dataset")
    from ultralytics.data.utils import polygon2mask

    s4m("export", "labels", source, tmp_path / "out", "--format", "yolo")
    (tmp_path / "out/images").symlink_to(tmp_path / "images")
    data = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    images = str(tmp_path / "out" / data["train"])
    read = {
        Path(entry["im_file"]).name: entry
        for entry in dataset.YOLODataset(img_path=images, data=data, task="segment", augment=False).labels
    }
    masks = [polygon2mask(SIZE_HW, [corners * (WIDTH, HEIGHT)]) for corners in read["a.png"]["segments"]]
    names = [data["names"][int(label)] for label in read["a.png"]["cls"].ravel()]
    require_drawn(zip(names, masks, strict=True), best_of_one_line)
    assert len(read["b.jpg"]["segments"]) == 0
