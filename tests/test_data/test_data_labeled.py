"""Labeled and validation images of a training, read together."""

import json
import shutil
from pathlib import Path

import pytest

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.config.groups import DataOptions
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.findings import Problem
from s4m_pipeline.data.labeled import load_labeled
from tests.conftest import TinyCoco


@pytest.fixture
def data(tiny_config: Path) -> DataOptions:
    return load_experiment(tiny_config, [])[0].data


def test_load_labeled__crowd_and_empty_annotations__are_left_out_and_counted(
    data: DataOptions, tiny_coco: TinyCoco, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_labeled(data)
    assert capsys.readouterr().err == ""
    document = json.loads(tiny_coco.annotations("train").read_text())
    document["annotations"][0]["iscrowd"] = 1
    document["annotations"][3]["bbox"] = [2, 2, 0, 4]
    (tmp_path / "some.json").write_text(json.dumps(document))
    train, _ = load_labeled(data.model_copy(update={"labeled": str(tmp_path / "some.json")}))
    said = capsys.readouterr().err
    assert f"{tmp_path / 'some.json'}: 2 annotations are crowd regions, empty" in said
    assert f"s4m data check {tmp_path / 'some.json'}" in said
    assert len(train.usable) == 10


@pytest.mark.parametrize("subset", ["train", "val"])
def test_load_labeled__absent_and_empty_files__are_refused_together_by_name(
    subset: str, data: DataOptions, tiny_coco: TinyCoco, tmp_path: Path
) -> None:
    shutil.copytree(tiny_coco.root, tmp_path / "data")
    folder = tmp_path / "data" / subset
    (folder / "1.png").unlink()
    (folder / "3.png").unlink()
    (folder / "2.png").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        load_labeled(data.model_copy(update={"root": str(tmp_path / "data")}))
    found, empty = Problem.FILE_MISSING.text, Problem.FILE_EMPTY.text
    assert f"{found} (2): 1.png, 3.png\n  - {empty} (1): 2.png\n" in str(caught.value)
    assert f"{subset}.json cannot be used" in str(caught.value)


@pytest.mark.parametrize(
    ("prefix", "folder", "advice"),
    [
        (
            "train/",
            "train",
            "`file_name` begins with train/: give {root} as the image folder, not {root}/train.",
        ),
        ("photos/", "train", "begins with photos/, but {root}/train has no such folder: remove it"),
        ("photos/", ".", "begins with photos/, but {root} has no such folder: replace it by train/"),
        ("", ".", "All images are in {root}/train: give that as the image folder."),
    ],
    ids=["folder too deep", "prefix too many", "other prefix", "folder too high"],
)
def test_load_labeled__no_image_found__says_which_folder_or_prefix_is_wrong(
    prefix: str, folder: str, advice: str, data: DataOptions, tiny_coco: TinyCoco, tmp_path: Path
) -> None:
    root = tmp_path.resolve() / "data"
    shutil.copytree(tiny_coco.images("train"), root / "train")
    document = json.loads(tiny_coco.annotations("train").read_text())
    for image in document["images"]:
        image["file_name"] = prefix + image["file_name"]
    (root / "labels.json").write_text(json.dumps(document))
    faulty = {"labeled": str(root / "labels.json"), "train_images": str(root / folder)}
    with pytest.raises(UserError) as caught:
        load_labeled(data.model_copy(update=faulty))
    assert advice.format(root=root) in str(caught.value)


def test_load_labeled__single_missing_images__get_no_advice_about_all(
    data: DataOptions, tiny_coco: TinyCoco, tmp_path: Path
) -> None:
    shutil.copytree(tiny_coco.images("train"), tmp_path / "train")
    (tmp_path / "train" / "sub").mkdir()
    (tmp_path / "train" / "1.png").rename(tmp_path / "train" / "sub" / "1.png")
    with pytest.raises(UserError) as caught:
        load_labeled(data.model_copy(update={"train_images": str(tmp_path / "train")}))
    assert "1.png (there is sub/1.png)" in str(caught.value)
    assert "Every `file_name`" not in str(caught.value) and "All images" not in str(caught.value)
