"""Labelled and validation images of a training, read together."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from s4m_pipeline.data.findings import Problem
from s4m_pipeline.data.labelled import load_labelled
from s4m_pipeline.errors import UserError
from s4m_pipeline.options.experiment import load_experiment
from s4m_pipeline.options.groups import DataOptions
from tests.conftest import TinyCoco


@pytest.fixture
def data(tiny_config: Path) -> DataOptions:
    return load_experiment(tiny_config, [])[0].data


def test_load_labelled__crowd_and_empty_annotations__are_left_out_and_counted(
    data: DataOptions, tiny_coco: TinyCoco, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_labelled(data)
    assert capsys.readouterr().err == ""
    document = json.loads(tiny_coco.annotations("train").read_text())
    document["annotations"][0]["iscrowd"] = 1
    document["annotations"][3]["bbox"] = [2, 2, 0, 4]
    (tmp_path / "some.json").write_text(json.dumps(document))
    train, _ = load_labelled(dataclasses.replace(data, labeled=str(tmp_path / "some.json")))
    said = capsys.readouterr().err
    assert f"{tmp_path / 'some.json'}: 2 annotations are crowd regions or empty" in said
    assert f"s4m data check {tmp_path / 'some.json'}" in said
    assert len(train.usable) == 10


@pytest.mark.parametrize("subset", ["train", "val"])
def test_load_labelled__absent_and_empty_files__are_refused_together_by_name(
    subset: str, data: DataOptions, tiny_coco: TinyCoco, tmp_path: Path
) -> None:
    shutil.copytree(tiny_coco.root, tmp_path / "data")
    folder = tmp_path / "data" / subset
    (folder / "1.png").unlink()
    (folder / "3.png").unlink()
    (folder / "2.png").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        load_labelled(dataclasses.replace(data, root=str(tmp_path / "data")))
    found, empty = Problem.FILE_MISSING.text, Problem.FILE_EMPTY.text
    assert f"{found} (2): 1.png, 3.png\n  - {empty} (1): 2.png\n" in str(caught.value)
    assert f"{subset}.json cannot be used" in str(caught.value)
