"""Cityscapes: its encodings, pairs of files, and COCO JSON made from them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.cityscapes.convert import annotations_of, convert
from s4m_pipeline.data.cityscapes.labels import INSTANCE_CLASSES, LABEL_IDS, draw_polygons
from s4m_pipeline.data.cityscapes.layout import frame_key, photo_name

HEIGHT, WIDTH = 12, 20
CAR, PERSON = LABEL_IDS["car"], LABEL_IDS["person"]


def known_values() -> np.ndarray:
    """Two cars that touch, one of them in two pieces; a group of persons; a caravan; road, and a gap."""
    values = np.full((HEIGHT, WIDTH), LABEL_IDS["road"], np.uint16)
    values[:2] = LABEL_IDS["unlabeled"]
    values[3:7, 2:5] = CAR * 1000
    values[3:7, 5:9] = CAR * 1000 + 1
    values[10, 15] = CAR * 1000
    values[8:11, 2:6] = PERSON
    values[2:5, 12:16] = LABEL_IDS["caravan"] * 1000
    return values


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A photo for training and one for validation, with images of instance ids."""
    for split, name in (("train", "ulm/ulm_000003_000019"), ("val", "bonn/bonn_000000_000019")):
        photo = tmp_path / "leftImg8bit" / split / f"{name}_leftImg8bit.png"
        ids = tmp_path / "gtFine" / split / f"{name}_gtFine_instanceIds.png"
        for path in (photo, ids):
            path.parent.mkdir(parents=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(photo)
        Image.fromarray(known_values()).save(ids)
    return tmp_path


def ids_path(root: Path) -> Path:
    return root / "gtFine/train/ulm/ulm_000003_000019_gtFine_instanceIds.png"


def decoded(annotation: dict) -> np.ndarray:
    return coco_mask.decode(annotation["segmentation"]).astype(bool)


def test_annotations_of__known_values__are_their_masks_exactly() -> None:
    values = known_values()
    found = list(annotations_of(values))
    assert [(a["category_id"], a["iscrowd"]) for a in found] == [(PERSON, 1), (CAR, 0), (CAR, 0)]
    for annotation, value in zip(found, (PERSON, CAR * 1000, CAR * 1000 + 1), strict=True):
        assert np.array_equal(decoded(annotation), values == value)
        assert annotation["area"] == (values == value).sum()
    assert [a["bbox"] for a in found] == [[2, 8, 4, 3], [2, 3, 14, 8], [5, 3, 4, 4]]


def test_convert__document_is_coco_with_the_benchmarks_ids_and_relative_names(root: Path) -> None:
    done = convert(root, root / "out")
    document = json.loads((root / "out/train.json").read_text())
    assert {entry["name"]: entry["id"] for entry in document["categories"]} == INSTANCE_CLASSES
    assert [entry["id"] for entry in document["categories"]] == [24, 25, 26, 27, 28, 31, 32, 33]
    assert document["images"] == [
        {"id": 1, "file_name": "ulm/ulm_000003_000019_leftImg8bit.png", "width": WIDTH, "height": HEIGHT}
    ]
    assert [a["id"] for a in document["annotations"]] == [1, 2, 3]
    assert {a["image_id"] for a in document["annotations"]} == {1}
    assert [(d.images, d.instances, d.groups, d.from_polygons) for d in done] == [(1, 2, 1, 0)] * 2


def test_convert__processes_do_not_change_the_bytes(mini_cityscapes: Path, tmp_path: Path) -> None:
    convert(mini_cityscapes, tmp_path, jobs=2)
    for name in ("train.json", "val.json"):
        assert (tmp_path / name).read_bytes() == (mini_cityscapes / "annotations" / name).read_bytes()


def test_convert__polygons_alone_give_the_same_annotations(mini_cityscapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(mini_cityscapes, root, ignore=shutil.ignore_patterns("*Ids.png", "annotations"))
    done = convert(root, tmp_path / "out")
    assert [split.from_polygons for split in done] == [split.images for split in done] == [40, 10]
    for name in ("train.json", "val.json"):
        assert (tmp_path / "out" / name).read_bytes() == (mini_cityscapes / "annotations" / name).read_bytes()


def test_draw_polygons__miniature__is_what_the_benchmarks_own_script_draws(mini_cityscapes: Path) -> None:
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage

    for path in sorted((mini_cityscapes / "gtFine/val").rglob("*_polygons.json")):
        theirs = Annotation()
        theirs.fromJsonFile(str(path))
        expected = np.array(createInstanceImage(theirs, "ids"))
        assert np.array_equal(draw_polygons(json.loads(path.read_text()), 256, 128), expected)


def polygons(*objects: dict) -> dict:
    return {"imgWidth": WIDTH, "imgHeight": HEIGHT, "objects": list(objects)}


def square(label: str, left: int, right: int, **more: int) -> dict:
    return {"label": label, "polygon": [[left, 1], [right, 1], [right, 4], [left, 4]], **more}


def test_draw_polygons__later_ones_cover_and_covered_ones_count() -> None:
    values = draw_polygons(
        polygons(
            square("road", -5, 30),
            square("car", 2, 4),
            square("car", 2, 6),
            square("license plate", 3, 3),
            square("car", 8, 9, deleted=1),
            square("persongroup", 10, 12),
            square("car", 14, 15),
        ),
        WIDTH,
        HEIGHT,
    )
    row = [7] * 2 + [26001] * 5 + [7] * 3 + [24] * 3 + [7] + [26002] * 2 + [7] * 4
    assert np.array_equal(values[1:5], [row] * 4)
    assert not values[0].any() and not values[5:].any()


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({**polygons(), "imgWidth": 21}, "annotated size 21 x 12, but the photo has 20 x 12"),
        ({"imgWidth": WIDTH, "imgHeight": HEIGHT}, "no list `objects`"),
        (polygons(square("spaceship", 1, 2)), "unknown label 'spaceship'"),
        (polygons(square("spaceshipgroup", 1, 2)), "unknown label 'spaceshipgroup'"),
        (polygons(square("car", 1, 2), {"label": "car", "polygon": [[1, 2], [3]]}), r"objects\[1\] has no"),
        (polygons({"label": "car", "polygon": [[1, float("nan")], [3, 4], [5, 6]]}), r"objects\[0\]"),
        (polygons({"label": "car", "polygon": [[1, 2]]}), "two or more points"),
        (polygons({"label": "car"}), "no polygon"),
        ({**polygons(), "objects": [3]}, "not a JSON object"),
    ],
)  # fmt: skip
def test_draw_polygons__malformed_annotation_is_refused(document: dict, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        draw_polygons(document, WIDTH, HEIGHT)


def damage_size(root: Path) -> None:
    Image.new("I;16", (WIDTH + 1, HEIGHT)).save(ids_path(root))


def damage_kind(root: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(ids_path(root))


def damage_values(root: Path) -> None:
    Image.fromarray(np.where(known_values() == 7, 255, known_values()).astype(np.uint16)).save(ids_path(root))


def damage_class(root: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 11_000, np.uint16)).save(ids_path(root))


def damage_bytes(root: Path) -> None:
    ids_path(root).write_bytes(ids_path(root).read_bytes()[:60])


def damage_photo(root: Path) -> None:
    (root / "leftImg8bit/train/ulm/ulm_000003_000019_leftImg8bit.png").write_bytes(b"")


def damage_polygons(root: Path) -> None:
    ids_path(root).unlink()
    (ids_path(root).parent / "ulm_000003_000019_gtFine_polygons.json").write_text("[1")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (damage_size, "21 x 12 pixels, but the photo has 20 x 12"),
        (damage_kind, "not a 16-bit PNG"),
        (damage_values, "pixel value 255"),
        (damage_class, "pixel value 11000"),
        (damage_bytes, "cannot be decoded"),
        (damage_photo, "zero bytes"),
        (damage_polygons, "not readable as JSON"),
    ],
)
def test_convert__unusable_file_is_named_and_nothing_written(root: Path, damage, expected: str) -> None:
    damage(root)
    with pytest.raises(UserError, match=rf"(?s)train: 1 of 1 annotations.*ulm_000003.*{expected}"):
        convert(root, root / "out")
    assert not (root / "out").exists()


def test_convert__finished_files_stay_unless_forced(root: Path) -> None:
    convert(root, root / "out")
    before = (root / "out/train.json").read_bytes()
    damage_values(root)
    with pytest.raises(UserError, match=r"train\.json and .*val\.json exist already.*--force"):
        convert(root, root / "out")
    with pytest.raises(UserError, match="pixel value 255"):
        convert(root, root / "out", force=True)
    assert (root / "out/train.json").read_bytes() == before


def test_convert__missing_folders_are_named_with_what_to_fetch(root: Path) -> None:
    shutil.rmtree(root / "gtFine/val")
    with pytest.raises(UserError) as caught:
        convert(root, root / "out")
    for expected in ("gtFine/val", "gtFine_trainvaltest.zip", "leftImg8bit_trainvaltest.zip", "unpack"):
        assert expected in str(caught.value)
    assert "leftImg8bit/train" not in str(caught.value)


def test_convert__files_that_do_not_match_are_counted_and_named_together(root: Path) -> None:
    photos, annotations = root / "leftImg8bit/train/ulm", root / "gtFine/train/ulm"
    for number in (5, 6):
        shutil.copy(next(photos.glob("ulm_000003*")), photos / f"ulm_00000{number}_000019_leftImg8bit.png")
    shutil.copy(ids_path(root), annotations / "ulm_000007_000019_gtFine_instanceIds.png")
    (photos / "photo_leftImg8bit.png").touch()
    (photos / "._ulm_000003_000019_leftImg8bit.png").touch()
    with pytest.raises(UserError) as caught:
        convert(root, root / "out")
    message = str(caught.value)
    assert (
        "photos without gtFine_instanceIds.png or gtFine_polygons.json (3): ulm/photo, ulm/ulm_000005"
        in message
    )
    assert "annotations without leftImg8bit.png (1): ulm/ulm_000007_000019" in message
    assert "six digits each (1): ulm/photo" in message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ulm/ulm_000003_000019_leftImg8bit.png", "ulm_000003_000019"),
        ("ulm_000003_000019_leftImg8bit.png", "ulm_000003_000019"),
        ("ulm_000003_000019.png", None),
        ("ulm_3_19_leftImg8bit.png", None),
        ("bad_city_000003_000019_leftImg8bit.png", None),
    ],
)
def test_frame_key__only_of_cityscapes_photos(name: str, expected: str | None) -> None:
    assert frame_key(name) == expected


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("ulm_000003_000019_gtFine_instanceIds.png", "ulm_000003_000019_leftImg8bit.png"),
        ("gtFine/ulm/ulm_000003_000019_gtFine_polygons.json", "gtFine/ulm/ulm_000003_000019_leftImg8bit.png"),
        ("ulm_000003_000019_leftImg8bit.png", "ulm_000003_000019_leftImg8bit.png"),
        ("cat_gtFine.png", "cat_gtFine.png"),
    ],
)  # fmt: skip
def test_photo_name__annotation_files_mean_their_photo(listed: str, expected: str) -> None:
    assert photo_name(listed) == expected
