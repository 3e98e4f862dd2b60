"""YOLO, LabelMe and label images: read as their programs do, and every mask survives there and back."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage
from typer.testing import CliRunner

from s4m_cache.coco import read_coco
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.formats.convert import kind_of
from s4m_pipeline.data.formats.label_images import read_label_images
from s4m_pipeline.data.formats.labelme import read_labelme
from s4m_pipeline.data.formats.yolo import read_yolo
from s4m_pipeline.data.writing import mask_annotation
from s4m_stages.cli import build_app

HEIGHT, WIDTH = 200, 300
CLASSES = ("cell", "debris")


def s4m(*words: object) -> str:
    done = CliRunner().invoke(build_app(), [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def drawn() -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Objects of the kinds that formats get wrong: class and mask."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    masks = {
        "corner": (y < 60) & (x < 50),
        "far corner": (y >= 140) & (x >= 240),
        "hole": ((y - 100) ** 2 + (x - 100) ** 2 < 40**2) & ((y - 100) ** 2 + (x - 110) ** 2 >= 15**2),
        "parts": ((abs(y - 30) < 22) & (abs(x - 120) < 25)) | ((abs(y - 30) < 22) & (abs(x - 180) < 25)),
        "far part": ((y - 20) ** 2 + (x - 250) ** 2 < 15**2) | ((abs(y - 4) < 2) & (x > 290)),
        "diagonal": (abs(y - x + 60) < 12) & (y > 110) & (y < 160),
        "small at the border": (y >= HEIGHT - 6) & (abs(x - 20) < 3),
        "small disk": (y - 180.5) ** 2 + (x - 60.5) ** 2 < 3**2,
        "small ring": (abs(y - 180) < 3) & (abs(x - 90) < 3) & ((y != 180) | (x != 90)),
        "small parts": (abs(y - 180) < 3) & (abs(x - 120) < 7) & (abs(x - 120) > 1),
        "pixel": (y == 90) & (x == 280),
    }
    return {name: (CLASSES[number % 2], mask) for number, (name, mask) in enumerate(masks.items())}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A COCO JSON beside `images/`: one image in a subfolder with all objects, one with none."""
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for name in ("sub/a.png", "b.jpg"):
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(images / name)
    annotations = [
        mask_annotation(mask, 1, number, CLASSES.index(name) + 1)
        for number, (name, mask) in enumerate(drawn().values(), 1)
    ]
    size = {"width": WIDTH, "height": HEIGHT}
    document = {
        "images": [{"id": 1, "file_name": "sub/a.png", **size}, {"id": 2, "file_name": "b.jpg", **size}],
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)],
    }
    path = tmp_path / "source.json"
    path.write_text(json.dumps(document))
    return path


def best_of_one_line(mask: NDArray[np.bool_]) -> float:
    """Highest IoU of a mask of up to two parts with any connected set of pixels, and so with any outline.

    Such a set has pixels of one part only, or at least those of the shortest connection besides.
    """
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    if count == 1:
        return 1.0
    first, second = (parts == 1).sum(), (parts == 2).sum()
    gap = ndimage.distance_transform_cdt(parts != 1, "chessboard")[parts == 2].min() - 1
    both = first + second
    return max(both / (both + gap), max(first, second) / both)


@pytest.mark.parametrize("kind", ["coco", "yolo", "labelme", "label-images"])
def test_formats__written_and_read_again_every_object_is_as_it_was(kind: str, source: Path, tmp_path: Path):
    folder, back = tmp_path / kind, tmp_path / "back.json"
    s4m("export", "labels", source, back if kind == "coco" else folder, "--format", kind)
    if kind == "yolo":
        (folder / "images").symlink_to(tmp_path / "images")
    if kind == "labelme":
        shutil.copytree(tmp_path / "images", folder, dirs_exist_ok=True)
    if kind != "coco":
        assert kind_of(folder) == kind
        images = folder if kind == "labelme" else tmp_path / "images"
        s4m("data", "convert", kind, folder, back, "--images", images)

    s4m("data", "check", back, "--images", tmp_path / "images")
    coco = COCO(back)
    names = {image["file_name"]: image["id"] for image in coco.imgs.values()}
    assert set(names) == {"sub/a.png", "b.jpg"}
    assert coco.getAnnIds(names["b.jpg"]) == []
    found = coco.loadAnns(coco.getAnnIds(names["sub/a.png"]))
    expected = drawn()
    assert len(found) == len(expected) and not any(entry["iscrowd"] for entry in found)
    for name, (class_name, mask) in expected.items():
        ious = {entry["id"]: iou(coco.annToMask(entry) > 0, mask) for entry in found}
        best = max(ious, key=ious.__getitem__)
        assert ious[best] >= (best_of_one_line(mask) if kind == "yolo" else 1), name
        assert coco.cats[coco.anns[best]["category_id"]]["name"] == class_name


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_predictions__are_exported_with_the_class_and_the_score(source: Path, tmp_path: Path):
    """What `s4m predict` wrote: images.json, and results without ids and boxes."""
    document = json.loads(source.read_text())
    results = [
        {"image_id": 1, "category_id": 2, "score": 0.75, "segmentation": entry["segmentation"]}
        for entry in document["annotations"][:1]
    ]
    answers = tmp_path / "answers"
    answers.mkdir()
    (answers / "images.json").write_text(json.dumps({**document, "annotations": []}))
    (answers / "predictions.json").write_text(json.dumps(results))
    s4m("export", "labels", answers, tmp_path / "out.json")
    (entry,) = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert (entry["category_id"], entry["score"], entry["bbox"], entry["area"]) == (
        2,
        0.75,
        [0, 0, 50, 60],
        3000,
    )
    s4m("export", "labels", answers, tmp_path / "labelme", "--format", "labelme")
    (shape,) = json.loads((tmp_path / "labelme/sub/a.json").read_text())["shapes"]
    assert (shape["label"], shape["description"]) == ("debris", "score 0.75")
    with pytest.raises(UserError, match="--generation is for pseudo-labels"):
        s4m("export", "labels", answers, tmp_path / "new.json", "--generation", 1)


# Label images


def numbered() -> NDArray[np.uint8]:
    """Values with gaps: background, and the first three objects."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, (_, mask) in zip((3, 7, 200), drawn().values(), strict=False):
        values[mask] = value
    return values


def save(path: Path, values: NDArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, values)
    else:
        Image.fromarray(values).save(path)


@pytest.mark.parametrize(
    "name, dtype, factor",
    [
        ("b.png", np.uint8, 1),
        ("b_cp_masks.png", np.uint16, 300),
        ("b.tif", np.uint16, 300),
        ("b.tif", np.int32, 100_000),
        ("b_labels.tif", np.uint32, 100_000),
        ("b.tif", np.float32, 300),
        ("b.tif", ">u2", 300),
    ],
)
def test_label_images__all_depths_give_the_same_masks(
    name: str, dtype, factor: int, source: Path, tmp_path: Path
):
    save(tmp_path / "labels" / name, numbered().astype(dtype) * np.array(factor, dtype))
    read = read_label_images(tmp_path / "labels", tmp_path / "images")
    (name, labels), *more = read.labeled
    assert name == "b.jpg" and not more and read.labeled.classes == ("object",)
    assert read.notes == ("classes: one, 'object'", "1 images without a label image are left out")
    masks = [mask for _, mask in list(drawn().values())[:3]]
    np.testing.assert_array_equal(labels.instances.masks.dense((0, 0, HEIGHT, WIDTH)), masks)


def test_label_images__palette_of_a_png_is_not_what_counts(source: Path, tmp_path: Path):
    image = Image.fromarray(numbered(), mode="P")
    image.putpalette([value // 3 for value in range(768)][::-1])
    (tmp_path / "labels").mkdir()
    image.save(tmp_path / "labels/b.png")
    assert read_label_images(tmp_path / "labels", tmp_path / "images").num_objects == 3


def test_label_images__classes_by_folder_and_by_file(source: Path, tmp_path: Path):
    values = numbered()
    save(tmp_path / "folders/cell/sub/a.png", np.where(values == 3, values, 0))
    save(tmp_path / "folders/debris/sub/a.png", np.where(values == 3, 0, values))
    read = read_label_images(tmp_path / "folders", tmp_path / "images")
    ((_, labels),) = read.labeled
    assert read.labeled.classes == CLASSES and labels.instances.labels.tolist() == [0, 1, 1]

    save(tmp_path / "table/b.png", values)
    with (tmp_path / "table/classes.csv").open("w", newline="") as file:
        rows = [("b.png", 3, "debris"), ("b.png", 7, "cell"), ("b.png", 200, "debris")]
        csv.writer(file).writerows([("file", "id", "class"), *rows])
    ((_, labels),) = read_label_images(tmp_path / "table", tmp_path / "images").labeled
    assert labels.instances.labels.tolist() == [1, 0, 1]
    (tmp_path / "table/classes.csv").write_text("file,id,class\nb.png,3,cell\n")
    with pytest.raises(UserError, match=r"b\.png \(the value 7 has no line in classes\.csv"):
        read_label_images(tmp_path / "table", tmp_path / "images")


def test_label_images__beside_the_images_are_known_by_their_suffix(source: Path, tmp_path: Path):
    save(tmp_path / "images/b_masks.png", numbered())
    read = read_label_images(tmp_path / "images", tmp_path / "images")
    assert list(read.labeled.file_names.values()) == ["b.jpg"] and read.num_objects == 3


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("b.png", np.zeros((HEIGHT, WIDTH), np.uint8), "no object in 1 images"),
        ("b.png", (numbered() > 0).astype(np.uint8) * 255, "binary masks"),
        ("b.png", numbered() > 0, r"b\.png \(1 bit per pixel"),
        ("b.png", numbered()[:50], r"b\.png \(300 x 50 pixels, but the image has 300 x 200"),
        ("c.png", numbered(), r"c\.png \(no image of this name"),
        ("b.png", np.dstack([numbered()] * 3), r"b\.png \(3 values per pixel"),
        ("b.tif", numbered().astype(np.float32) + 0.5, "not whole numbers"),
        ("b.tif", -numbered().astype(np.int32), "negative value -200"),
        ("b.tif", np.stack([numbered()] * 2), "2 frames"),
    ],
)
def test_label_images__what_cannot_be_meant_is_refused(name, values, message, source: Path, tmp_path: Path):
    save(tmp_path / "labels" / name, values)
    with pytest.raises(UserError, match=message):
        read_label_images(tmp_path / "labels", tmp_path / "images")


# YOLO


@pytest.fixture
def yolo(source: Path, tmp_path: Path) -> Path:
    """A data set as Roboflow writes it: `../train/images` for a folder beside data.yaml."""
    folder = tmp_path / "set"
    (folder / "train/labels").mkdir(parents=True)
    shutil.copytree(tmp_path / "images/sub", folder / "train/images")
    (folder / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [cell, debris]\n"
    )
    (folder / "train/labels/a.txt").write_text("1 0.1 0.1 0.5 0.1 0.5 0.5\n")
    return folder


def test_yolo__folders_of_roboflow_are_found(yolo: Path):
    read = read_yolo(yolo)
    assert read.images == yolo / "train/images" and list(read.labeled.file_names.values()) == ["a.png"]
    ((_, labels),) = read.labeled
    assert labels.instances.labels.tolist() == [1]
    box = labels.instances.masks.boxes[0].tolist()
    assert box == [20, 30, 101, 151]  # corners are cut to whole pixels, and belong to the mask
    with pytest.raises(UserError, match=r"\.\./valid/images not found"):
        read_yolo(yolo, split="val")
    with pytest.raises(UserError, match="`test`"):
        read_yolo(yolo, split="test")


@pytest.mark.parametrize(
    "line, message",
    [
        ("0 0.5 0.5 0.2 0.2", "a box, not an outline"),
        ("0 0.5 0.5 0.2 0.2 0.3", "5 numbers after the class"),
        ("2 0.1 0.1 0.5 0.1 0.5 0.5", "class 2, but data.yaml has 2 names"),
        ("0 10 10 50 10 50 50", "not relative to width and height"),
        ("0 0.1 0.1 nan 0.1 0.5 0.5", "not relative to width and height"),
        ("cell 0.1 0.1 0.5 0.1 0.5 0.5", "not numbers"),
    ],
)
def test_yolo__faulty_line_is_named(line: str, message: str, yolo: Path):
    (yolo / "train/labels/a.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=rf"a\.txt \({message}|a\.txt \(.*{message}"):
        read_yolo(yolo)


# LabelMe


def labelme_file(path: Path, shapes: list[dict], **more: object) -> None:
    document = {"imagePath": "b.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": shapes}
    path.write_text(json.dumps({**document, **more}))


def shape(points: list, kind: str = "polygon", **more: object) -> dict:
    return {"label": "cell", "points": points, "shape_type": kind, **more}


def test_labelme__shapes_are_drawn_and_groups_united(source: Path, tmp_path: Path):
    labelme_file(
        tmp_path / "images/b.json",
        [
            shape([[10, 10], [20, 30]], "rectangle", group_id=4),
            shape([[20.4, 40], [10, 50]], "rectangle", group_id=4),
            shape([[100, 100], [100, 110]], "circle"),
            shape([[200, 50], [220, 50], [220, 80], [200, 80]], label="debris", group_id=4),
            shape([[1, 1], [9, 9]], "line"),
        ],
    )
    read = read_labelme(tmp_path / "images")
    ((_, labels),) = read.labeled
    masks = labels.instances.masks
    assert labels.instances.labels.tolist() == [0, 0, 1]
    assert masks.boxes.tolist() == [[10, 10, 51, 21], [90, 90, 111, 111], [50, 200, 81, 221]]
    assert masks.areas[[0, 2]].tolist() == [11 * 21 + 11 * 11, 21 * 31]
    assert abs(masks.areas[1] - np.pi * 10.5**2) < 15
    assert read.notes == ("1 shapes of the kind line are left out",)


@pytest.mark.parametrize(
    "shapes, more, message",
    [
        ([shape([[1, 1], [5, 5]])], {}, "a polygon with 2 points"),
        ([shape([[1, 1], [5, 5], [1e9, 5]])], {}, "far outside"),
        ([shape([[1, 1], [5, 5]], "mask", mask="AAAA")], {}, "not as LabelMe writes it"),
        ([{"points": [[1, 1], [5, 5], [5, 1]]}], {}, "KeyError"),
        ([], {"imagePath": "..\\photos\\absent.jpg"}, "absent.jpg is not there"),
        ([], {"imageHeight": 100}, "made for 300 x 100 pixels, but the image has 300 x 200 pixels"),
    ],
)
def test_labelme__faulty_file_is_named(shapes, more, message: str, source: Path, tmp_path: Path):
    labelme_file(tmp_path / "images/b.json", shapes, **more)
    with pytest.raises(UserError, match=rf"b\.json \(.*{message}"):
        read_labelme(tmp_path / "images")


def test_convert__existing_file_is_kept_and_unknown_folder_explained(source: Path, tmp_path: Path):
    save(tmp_path / "labels/b.png", numbered())
    before = source.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        s4m("data", "convert", "label-images", tmp_path / "labels", source, "--images", tmp_path / "images")
    assert source.read_bytes() == before and read_coco(source).classes == CLASSES
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no annotations found"):
        kind_of(tmp_path / "empty")
