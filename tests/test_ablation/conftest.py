"""A config whose ablation is planned for real and worked off by a stand-in for `s4m run`."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, TinyCoco


@pytest.fixture(scope="session")
def study(tiny_coco: TinyCoco, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's config on a copy of the tiny data set; tests must not write into it."""
    root = tmp_path_factory.mktemp("study")
    shutil.copytree(tiny_coco.root, root / "data")
    path = root / "study.py"
    path.write_text(
        f"""
_base_ = [{str(REPOSITORY / "configs/demo/demo.py")!r}]
data = dict(
    _delete_=True, root={str(root / "data")!r}, labeled="train.json", train_images="train",
    unlabeled="train.json", val="val.json", val_images="val", test="test.json", test_images="test",
)
refine = dict(ground_truth="train.json")
"""
    )
    return path
