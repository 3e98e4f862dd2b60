"""What `s4m export labels` writes, read by the programs it is for; skipped where one is not installed.

And outlines that others wrote: read as those programs draw them.
"""

import csv
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from skimage.io import imread
from skimage.measure import regionprops

from s4m_cache.coco import LabeledImages, read_coco
from s4m_pipeline.data.formats.labelme import read_labelme
from s4m_pipeline.data.formats.yolo import read_yolo
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


def outlines() -> list[NDArray[np.float64]]:
    """Stars of 6 to 100 pixels, also slender and cut by the border: corners (N, 2), x and y in pixels."""
    rng = np.random.default_rng(0)
    turn = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    found = []
    for size_px in (6, 12, 24, 48, 100):
        for squeeze in (1, 0.2):
            radius = size_px / 2 * np.tile((1, 0.5), 5)
            star = np.stack([np.cos(turn), np.sin(turn) * squeeze], 1) * radius[:, None]
            star = star @ [[0.8, 0.6], [-0.6, 0.8]]
            centers = rng.uniform(0, (WIDTH, HEIGHT)), np.array([WIDTH - 2.3, 0.4 * HEIGHT])
            found += [star + center for center in centers]
    return [np.clip(corners, 0, (WIDTH, HEIGHT)) for corners in found]


def masks_of(labeled: LabeledImages) -> NDArray[np.bool_]:
    """Masks (N, H, W) of the objects of `b.jpg`."""
    (labels,) = [labels for name, labels in labeled if name == "b.jpg"]
    return labels.instances.masks.dense((0, 0, HEIGHT, WIDTH))


def test_yolo_outlines__are_read_as_ultralytics_fills_them(source: Path, tmp_path: Path):  # noqa: F811
    rows = [(corners / (WIDTH, HEIGHT)).ravel().tolist() for corners in outlines()]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/b.txt").write_text("".join(f"0 {' '.join(map(str, row))}\n" for row in rows))
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cell]\n")
    expected = []
    for row in rows:
        mask = np.zeros(SIZE_HW, np.uint8)
        corners = np.reshape(row, (-1, 2)) * (WIDTH, HEIGHT)
        cv2.fillPoly(mask, np.asarray([corners], dtype=np.int32), color=1)
        expected.append(mask > 0)
    np.testing.assert_array_equal(masks_of(read_yolo(tmp_path).labeled), expected)


def test_labelme_outlines__are_read_as_labelme_draws_them(source: Path, tmp_path: Path):  # noqa: F811
    shapes = [
        {"label": "cell", "points": corners.tolist(), "shape_type": "polygon"} for corners in outlines()
    ]
    (tmp_path / "images/b.json").write_text(json.dumps({"imagePath": "b.jpg", "shapes": shapes}))
    expected = []
    for shape in shapes:
        image = Image.fromarray(np.zeros(SIZE_HW, np.uint8))
        ImageDraw.Draw(image).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
        expected.append(np.array(image, bool))
    np.testing.assert_array_equal(masks_of(read_labelme(tmp_path / "images").labeled), expected)


def test_coco_outlines__are_read_as_pycocotools_fills_them(source: Path):  # noqa: F811
    document = json.loads(source.read_text())
    document["annotations"] = [
        {
            "id": number,
            "image_id": 2,
            "category_id": 1,
            "segmentation": [corners.ravel().tolist()],
            "iscrowd": 0,
        }
        for number, corners in enumerate(outlines(), 1)
    ]
    source.write_text(json.dumps(document))
    coco = COCO(source)
    expected = [coco.annToMask(entry) > 0 for entry in document["annotations"]]
    np.testing.assert_array_equal(
        masks_of(read_coco(source).labeled), [mask for mask in expected if mask.any()]
    )
