"""The miniatures: layout and encodings of the real data sets, and data that is not overwritten."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from s4m_cache.segmentation import encode
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.check import check_images
from s4m_pipeline.data.cityscapes.labels import INSTANCE_CLASSES, LABEL_IDS, label_of
from s4m_pipeline.data.coco import load_coco, parse_coco
from s4m_pipeline.data.labeled import check_leak
from s4m_pipeline.data.miniature import cityscapes, coco
from s4m_pipeline.data.miniature.coco import COCO_CATEGORIES
from s4m_pipeline.data.splits import split_percent
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.evaluation.mask_ap import mask_ap
from s4m_stages.data import app

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mini_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mini_coco")
    coco.write_coco(root)
    return root


def coco_set(root: Path, subset: str):
    return load_coco(root / f"annotations/instances_{subset}.json", root / subset)


def test_write_cityscapes__files_have_the_names_and_encodings(mini_cityscapes: Path) -> None:
    photos = sorted((mini_cityscapes / "leftImg8bit").glob("*/*/*_leftImg8bit.png"))
    assert len(photos) == 50
    values_seen: set[int] = set()
    for photo in photos:
        city = photo.parent.name
        stem = str(photo).replace("/leftImg8bit/", "/gtFine/").removesuffix("_leftImg8bit.png")
        assert photo.name.startswith(f"{city}_0000")
        ids, labels = (Image.open(f"{stem}_gtFine_{kind}.png") for kind in ("instanceIds", "labelIds"))
        assert (ids.mode, labels.mode) == ("I;16", "L")
        assert Image.open(photo).size == ids.size == labels.size == (256, 128)
        values = np.asarray(ids)
        assert np.array_equal(np.vectorize(label_of)(values), np.asarray(labels))
        values_seen |= set(np.unique(values).tolist())
    of_groups = {value for value in values_seen if value in INSTANCE_CLASSES.values()}
    assert len(of_groups) >= 4
    assert {LABEL_IDS["unlabeled"], LABEL_IDS["road"], LABEL_IDS["caravan"] * 1000} <= values_seen
    assert min(values_seen) == 0


def test_write_cityscapes__both_splits_show_all_classes_and_share_nothing(mini_cityscapes: Path) -> None:
    sets = [
        load_coco(mini_cityscapes / f"annotations/{split}.json", mini_cityscapes / "leftImg8bit" / split)
        for split in ("train", "val")
    ]
    check_leak(*sets)
    for data in sets:
        assert min(data.class_counts(data.images).values()) > 0
        assert data.class_names == list(INSTANCE_CLASSES)
        assert check_images(data.images).count("error") == 0


def test_coco_categories__are_80_with_gaps_up_to_90() -> None:
    assert len(COCO_CATEGORIES) == 80
    ids = list(COCO_CATEGORIES.values())
    assert ids == sorted(set(ids)) and (ids[0], ids[-1]) == (1, 90)
    assert set(range(1, 91)) - set(ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def test_write_coco__document_is_as_coco_writes_it(mini_coco: Path) -> None:
    document = json.loads((mini_coco / "annotations/instances_train2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in document["images"]}
    assert all(name == f"{number:012d}.jpg" for number, name in names.items())
    assert list(names) != sorted(names)
    kinds = {(type(a["segmentation"]).__name__, a["iscrowd"]) for a in document["annotations"]}
    assert kinds == {("list", 0), ("dict", 1)}
    crowd = next(a for a in document["annotations"] if a["iscrowd"])
    assert isinstance(crowd["segmentation"]["counts"], list)
    assert any(len(a["segmentation"]) > 1 for a in document["annotations"] if not a["iscrowd"])
    assert names.keys() - {a["image_id"] for a in document["annotations"]}
    assert len({(image["height"], image["width"]) for image in document["images"]}) == 4


def test_write_coco__is_sound_and_its_parts_share_nothing(mini_coco: Path) -> None:
    for subset in coco.SUBSETS:
        data, findings = parse_coco(mini_coco / f"annotations/instances_{subset}.json", mini_coco / subset)
        findings.update(check_images(data.images))
        assert findings.count("error") == 0, findings.as_json()
    check_leak(coco_set(mini_coco, "train2017"), coco_set(mini_coco, "val2017"))


@pytest.mark.parametrize("percent", [1, 2, 5, 10])
def test_write_coco__every_share_of_the_paper_can_be_split_off(mini_coco: Path, percent: int) -> None:
    data = coco_set(mini_coco, "train2017")
    split = split_percent(data, percent, 0, [coco_set(mini_coco, "val2017")])
    assert sum(data.class_counts(split.labeled).values()) > 0


def test_mask_ap__truth_of_the_coco_miniature_as_predictions_gives_100(mini_coco: Path) -> None:
    truth = coco_set(mini_coco, "val2017")
    predictions = []
    for image in truth.images:
        found = truth_masks(truth, image)
        for label, rle in zip(found.labels, encode(found.masks, image.height, image.width), strict=True):
            category = truth.categories[label].id
            predictions.append(
                {"image_id": image.id, "category_id": category, "score": 0.9, "segmentation": rle}
            )
    assert mask_ap(truth, predictions).AP == 100


def test_run_lengths__of_any_mask__are_what_pycocotools_reads() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 5), (8, 4)):
        for mask in (rng.random(shape) < 0.5, np.zeros(shape, bool), np.ones(shape, bool)):
            read = coco_mask.decode(coco_mask.frPyObjects(coco.run_lengths(mask), *shape))
            assert np.array_equal(read, mask)


@pytest.mark.parametrize(
    ("write", "taken"),
    [(cityscapes.write_cityscapes, "gtFine"), (coco.write_coco, "train2017")],
    ids=["cityscapes", "coco"],
)
def test_miniature__is_not_drawn_into_other_data(tmp_path: Path, write, taken: str) -> None:
    (tmp_path / taken).mkdir()
    with pytest.raises(UserError, match=rf"holds different data .*{taken}"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [taken]


@pytest.mark.parametrize("data_set", ["cityscapes", "coco"])
def test_miniature_command__finished_one_is_kept_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_set: str
) -> None:
    monkeypatch.setattr(cityscapes, "FRAMES_PER_CITY", {"train": 1, "val": 1})
    monkeypatch.setattr(coco, "SUBSETS", {"train2017": 2, "val2017": 2})
    command = ["miniature", data_set, str(tmp_path)]

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    assert CliRunner().invoke(app, command).exit_code == 0
    first = contents()
    assert len(first) > 6
    assert isinstance(CliRunner().invoke(app, command).exception, UserError)
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
    assert contents() == first
    assert CliRunner().invoke(app, [*command, "--force", "--seed", "1"]).exit_code == 0
    assert contents() != first


def documented(*words: str) -> list[list[str]]:
    """Arguments of the `s4m data` commands in docs/cityscapes.md that contain one of `words`."""
    lines = (REPOSITORY / "docs/cityscapes.md").read_text().splitlines()
    commands = [shlex.split(line)[2:] for line in lines if line.startswith("s4m data ")]
    found = [command for command in commands if any(word in command for word in words)]
    return sorted(found, key=lambda command: command[0] != "miniature")


@pytest.mark.parametrize("data_set", ["cityscapes", "coco"])
def test_documented_commands__on_the_miniature__write_what_the_configs_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data_set: str,
    mini_cityscapes: Path,
    mini_coco: Path,
) -> None:
    folder = f"data/{data_set}"
    drawn, made_later = {"cityscapes": (mini_cityscapes, "annotations"), "coco": (mini_coco, "splits")}[
        data_set
    ]
    shutil.copytree(drawn, tmp_path / folder, ignore=shutil.ignore_patterns(made_later))
    jsons = (f"{folder}/annotations/train.json", f"{folder}/annotations/instances_train2017.json")
    monkeypatch.chdir(tmp_path)
    miniature, *commands = documented(folder, *jsons)
    assert miniature == ["miniature", data_set, folder]
    expected = ["split"] if data_set == "coco" else ["convert", "check", "split"]
    assert [command[0] for command in commands] == expected
    for command in commands:
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, (command, done.output, done.exception)
    percent = commands[-1][-1].rpartition("/")[2]
    split = [f"data.{part}=splits/{percent}/{part}.json" for part in ("labeled", "unlabeled")]
    options, _ = load_experiment(REPOSITORY / f"configs/{data_set}/{data_set}.py", split)
    data = options.data
    sets = [
        load_coco(data.path(data.labeled), data.path(data.train_images)),
        load_coco(data.path(data.unlabeled), data.path(data.train_images), labeled=False),
        load_coco(*data.split("val")),
    ]
    for found in sets:
        assert all(image.path.is_file() for image in found.images)
    assert len(sets[0].images) == max(1, round(len(sets[0].images + sets[1].images) * int(percent) / 100))
