"""The commands and the Python of README.md and docs/ run: page by page, as a reader would type them.

Stand-ins: a few drawn scenes for the demo's data and for a reader's own, three steps for a training, and real
paths for the words in capitals. Not run: blocks marked `needs more`, and lines of make and pip.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES
from s4m_pipeline.data.scenes.writer import Subset, write_scenes
from s4m_stages.cli import build_app
from s4m_stages.reference import PAGE
from tests.test_docs.pages import BLOCKS, PAGES, ROOT, blocks

TEACHER = "work_dirs/demo/teacher/weights.safetensors"
STAND_INS = {
    "CONFIG": "configs/demo/demo.py",
    "CHECKPOINT": "work_dirs/demo/student/weights.safetensors",
    "OTHER_CHECKPOINT": TEACHER,
    "IMAGE": "new-photos/new-photos_00000.png",
    "CACHE": "work_dirs/demo/cache",
    "3/8": "1/1",
    "4": "2",  # devices
    "20": "2",  # images to suggest
    "teacher.iterations=100": "teacher.iterations=4",
    "work_dirs/demo/student/iter_600.pth": "work_dirs/demo/student/iter_3.pth",
}
STEPS = {"iterations": 3, "batch_size": 4, "validate_every": 3, "checkpoint_every": 1, "workers": 0}
SCHEDULE = {
    **{f"teacher.{key}": value for key, value in STEPS.items()},
    **{f"student.{key}": value for key, value in STEPS.items()},
    "student.unlabeled_batch_size": 4,
    "student.burn_in": 1,
    "student.refresh_every": None,
    "refine.min_score": 0.2,
    "refine.min_soft_area": 5.0,
}
TRAINING = ("pretrain-teacher", "train-student")
PROMISED = {
    "README.md": [
        "experiments/mine.py",
        "work_dirs/mine/student/weights.safetensors",
        "work_dirs/mine/report.html",
    ],
    "custom-data.md": [
        "work_dirs/mine/preview.png",
        "for_mmdet/mmdet_checkpoint.pth",
        "work_dirs/coins/evaluation.json",
    ],
    "data.md": ["from_yolo.json", "from_labelme.json", "from_label_images.json"],
    "export.md": ["not_averaged.safetensors", "labels.json", "for_yolo/data.yaml"],
    "predict.md": ["answers/predictions.json", "answers/pictures"],
    "report.md": ["work_dirs/demo/report.html", "work_dirs/demo/augmentation.png"],
    "suggest.md": ["work_dirs/demo/suggested.png", "task/annotations.json", "data/demo/more/labeled.json"],
    "student.md": ["work_dirs/demo/augmentation.png", "work_dirs/demo/control/weights.safetensors"],
}


def s4m(*words: str) -> None:
    """`s4m WORDS` in this process, with trainings made short, and done again where they were done before."""
    words = tuple(STAND_INS.get(word, word) for word in words)
    if words[0] in (*TRAINING, "run", "refine"):
        given = {word.partition("=")[0] for word in words}
        for key, value in SCHEDULE.items():
            words += ("--set", f"{key}={value}") if key not in given else ()
    if words[0] in (*TRAINING, "run"):
        words += ("--overwrite",)
    if {"--devices", "--workers"} & {*words}:  # starts this very command line several times
        subprocess.run([sys.executable, "-m", "s4m_stages", *words], check=True, timeout=300)
    else:
        assert build_app()(list(words), standalone_mode=False) in (None, 0), words


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder after `make demo`, with photos of their own beside it."""
    root = tmp_path_factory.mktemp("reader")
    config = root / "configs/demo/demo.py"
    config.parent.mkdir(parents=True)
    config.write_text(f"_base_ = [{str(ROOT / 'configs/demo/demo.py')!r}]\n")
    subsets = (Subset("train", 0, 12), Subset("val", 1, 3), Subset("test", 2, 3))
    write_scenes(root / "data/demo", subsets, DEMO_FAMILIES, (4, 98))
    own = (Subset("photos", 3, 10), Subset("more-photos", 4, 4), Subset("new-photos", 5, 2))
    write_scenes(root, own, DEMO_FAMILIES, (4, 98))
    (root / "photos.json").rename(root / "labels.json")
    shutil.copy(root / "new-photos/new-photos_00000.png", root / "photo.jpg")
    (root / "more").mkdir()
    shutil.copy(root / "new-photos/new-photos_00000.png", root / "more/one.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        s4m("data", "split", "data/demo/train.json", "--percent", "50", "--out", "data/demo/split")
        s4m("pretrain-teacher", "configs/demo/demo.py")
        s4m("refine", "configs/demo/demo.py")
        s4m("train-student", "configs/demo/demo.py")
        s4m("export", "labels", "work_dirs/demo", "in.json")
    return root


@pytest.mark.parametrize("page", [page for page in PAGES if page != PAGE], ids=lambda page: page.name)
def test_page__what_it_says_to_type_runs(page: Path, request, tmp_path: Path, monkeypatch):
    todo = [block for block in blocks(page) if block.runs]
    if not todo:
        pytest.skip("nothing that can be run here")
    shutil.copytree(request.getfixturevalue("project"), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    if page.name == "cache.md":
        s4m("cache", "import", "CACHE", "in.json")  # a second generation, to compare with
    if page.name == "data.md":
        for kind, folder in (
            ("yolo", "for_yolo"),
            ("labelme", "for_labelme"),
            ("label-images", "label-images"),
        ):
            s4m("export", "labels", "labels.json", folder, "--format", kind)
        Path("for_yolo/images").symlink_to(tmp_path / "photos")
        shutil.copytree("photos", "for_labelme", dirs_exist_ok=True)
    if page.name == "export.md":
        Path("labels.json").unlink()  # a reader's own, for other pages
    names = python_names()
    for block in sorted(
        todo, key=lambda block: bool(block.mark or block.python)
    ):  # some make what others need
        for line in block.lines:
            if line.words[0] == "s4m":
                s4m(*line.words[1:])
        exec(block.python.replace('device="cuda"', 'device="cpu"'), names)
    assert [path for path in PROMISED.get(page.name, []) if not (tmp_path / path).exists()] == []


def python_names() -> dict[str, Any]:
    """What the pages' Python has from its reader."""
    return {
        "predict": lambda image_id: np.ones((2, 480, 640), bool),
        "images": [torch.rand(3, 60, 80), torch.rand(3, 70, 50)],
        "image_index": torch.tensor([0, 1, 1]),
        "points": torch.rand(3, 2, 2) * 50,
    }


def test_pages__most_of_their_blocks_are_run():
    assert sum(block.runs for block in BLOCKS) > 0.7 * len(BLOCKS)
