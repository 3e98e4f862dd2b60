"""Corrected labels of unlabeled images become part of the labeled set."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.merging import merge
from s4m_pipeline.data.split_files import write_split
from s4m_pipeline.data.unlabeled import load_unlabeled

SIDE_PX = 20
CATEGORIES = ("cat", "dog")


@dataclass(frozen=True)
class Sets:
    """`photos/` with a.png and b.png, labeled; `more/` with 1.png to 4.png, unlabeled, 4 a copy of 2."""

    root: Path

    def write(self, name: str, images: list[dict[str, Any]], boxes: list[tuple[int, str]], ids=(3, 17)):
        """A COCO file: `boxes` are pairs (image id, class), drawn as a rectangle as wide as their place."""
        number = dict(zip(CATEGORIES, ids, strict=True))
        annotations = [
            {
                "id": place, "image_id": image_id, "category_id": number[category], "iscrowd": 0,
                "segmentation": [[2, 2, 2 + place, 2, 2 + place, 9, 2, 9]],
            }
            for place, (image_id, category) in enumerate(boxes, start=1)
        ]  # fmt: skip
        categories = [{"id": number[name], "name": name} for name in CATEGORIES]
        document = {"images": images, "annotations": annotations, "categories": categories}
        path = self.root / name
        path.write_text(json.dumps(document))
        return path

    def corrected(self, *names: str, boxes: list[tuple[int, str]], **changes: Any) -> CocoData:
        """Somebody's labels: ids of their own, the classes the other way round, no image files."""
        images = [entry(place, name) | changes for place, name in enumerate(names, start=70)]
        return load_coco(self.write("corrected.json", images, boxes, ids=(2, 1)), self.root / "absent")


def entry(image_id: int, name: str) -> dict[str, Any]:
    return {"id": image_id, "file_name": name, "width": SIDE_PX, "height": SIDE_PX}


@pytest.fixture
def sets(tmp_path: Path) -> Sets:
    for seed, name in enumerate(("photos/a", "photos/b", "more/1", "more/2", "more/sub/3", "val/v")):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (SIDE_PX, SIDE_PX, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    shutil.copy(tmp_path / "more/2.png", tmp_path / "more/4.png")
    found = Sets(tmp_path)
    found.write("labeled.json", [entry(1, "a.png"), entry(2, "b.png")], [(1, "cat"), (2, "dog")])
    found.write("val.json", [entry(1, "v.png")], [(1, "cat")])
    return found


Merge = Callable[..., tuple[CocoData, CocoData]]


@pytest.fixture
def merged(sets: Sets) -> Merge:
    """Merge, write and read again: the labeled and the unlabeled data set."""

    def run(corrected: CocoData, validation: CocoData | None = None) -> tuple[CocoData, CocoData]:
        labeled = load_coco(sets.root / "labeled.json", sets.root / "photos")
        unlabeled = load_unlabeled(sets.root / "more", sets.root / "photos")
        held_out = [] if validation is None else [validation]
        whole, split = merge(labeled, unlabeled, corrected, held_out)
        write_split(whole, split, held_out, sets.root / "out")
        return tuple(
            load_coco(sets.root / f"out/{name}.json", whole.images_root, labeled=name == "labeled")
            for name in ("labeled", "unlabeled")
        )

    return run


def test_merge__objects_keep_their_class_and_mask_and_the_earlier_ones_stay(sets: Sets, merged: Merge):
    boxes = [(70, "dog"), (70, "cat"), (71, "dog")]
    labeled, unlabeled = merged(sets.corrected("1.png", "sub/3.png", boxes=boxes))
    names = {category.id: category.name for category in labeled.categories}
    by_file = {
        image.file_name: [(names[a["category_id"]], a["area"]) for a in labeled.instances(image.id)]
        for image in labeled.images
    }
    assert by_file == {
        "photos/a.png": [("cat", 7.0)],
        "photos/b.png": [("dog", 14.0)],
        "more/1.png": [("dog", 7.0), ("cat", 14.0)],
        "more/sub/3.png": [("dog", 21.0)],
    }
    assert all(image.path.is_file() for image in (*labeled.images, *unlabeled.images))
    assert {image.file_name for image in unlabeled.images} == {"more/2.png", "more/4.png"}


def test_merge__remaining_images_keep_their_ids_and_copies_leave_with_their_original(
    sets: Sets, merged: Merge
):
    before = {image.path: image.id for image in load_unlabeled(sets.root / "more", sets.root).images}
    labeled, unlabeled = merged(sets.corrected("2.png", boxes=[(70, "cat")]))
    assert {image.path.name for image in unlabeled.images} == {"1.png", "3.png"}
    assert all(before[image.path] == image.id for image in unlabeled.images)
    assert len({image.id for image in labeled.images}) == 3


def test_merge__two_copies_that_were_both_corrected__are_both_labeled(sets: Sets, merged: Merge):
    shutil.copytree(sets.root / "more", sets.root / "absent")  # with their bytes, which are the same
    labeled, _ = merged(sets.corrected("2.png", "4.png", boxes=[(70, "cat"), (71, "dog")]))
    added = {image.path.name for image in labeled.images if image.path.parent.name == "more"}
    assert added == {"2.png", "4.png"}


def test_merge__one_folder_for_all__names_stay_as_they_are(sets: Sets):
    labeled = load_coco(sets.root / "labeled.json", sets.root / "photos")
    shutil.copytree(sets.root / "more", sets.root / "photos", dirs_exist_ok=True)
    listed = [entry(5, "1.png"), entry(6, "2.png")]
    unlabeled = load_unlabeled(sets.write("unlabeled.json", listed, []), sets.root / "photos")
    whole, split = merge(labeled, unlabeled, sets.corrected("1.png", boxes=[(70, "cat")]), [])
    assert whole.images_root == labeled.images_root
    named = [{image.id: image.file_name for image in images} for images in (whole.images, split.unlabeled)]
    assert named == [{1: "a.png", 2: "b.png", 5: "1.png"}, {6: "2.png"}]


def test_merge__image_that_is_a_validation_image_under_another_name_is_refused(sets: Sets, merged: Merge):
    shutil.copy(sets.root / "val/v.png", sets.root / "more/1.png")
    validation = load_coco(sets.root / "val.json", sets.root / "val")
    with pytest.raises(UserError, match=r"1 images are also in the validation set .*more/1.png \(= v.png\)"):
        merged(sets.corrected("1.png", boxes=[(70, "cat")]), validation)
    assert not (sets.root / "out").exists()


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["1.png", "9.png"], {}, "1 images are not among the unlabeled images of .*: 9.png"),
        (["a.png"], {}, "1 images are not among the unlabeled images"),
        (["1.png"], {"width": 40}, "1 images have a different size .*: 1.png"),
        (["1.png", "photos/1.png"], {}, "1 unlabeled images are listed several times: 1.png"),
    ],
    ids=["unknown", "already labeled", "resized", "twice"],
)
def test_merge__image_that_is_not_an_unlabeled_one_is_refused(
    sets: Sets, merged: Merge, names: list[str], changes: dict[str, int], message: str
):
    with pytest.raises(UserError, match=message):
        merged(sets.corrected(*names, boxes=[(70, "cat")], **changes))


def test_merge__class_that_the_labeled_data_lack_is_refused(sets: Sets, merged: Merge):
    corrected = sets.corrected("1.png", boxes=[(70, "cat")])
    corrected.json_path.write_text(corrected.json_path.read_text().replace('"cat"', '"catt"'))
    with pytest.raises(UserError, match="classes that the labeled data lack: catt"):
        merged(load_coco(corrected.json_path, sets.root / "absent"))
