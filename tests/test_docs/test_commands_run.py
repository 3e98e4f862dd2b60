"""The commands of README.md and docs/ do what they say: page by page, in order, as a reader would type them.

Stand-ins: a few drawn scenes for the demo's data and for a reader's own, steps instead of hundreds of them for a
training, and real paths for the words in capitals. Not run: blocks marked `needs more`, and lines of make and pip.
"""

import shutil
from pathlib import Path

import pytest

from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES
from s4m_pipeline.data.scenes.writer import Subset, write_scenes
from stages.cli import build_app
from stages.reference import PAGE
from tests.test_docs.pages import BLOCKS, PAGES, ROOT, Block, command_blocks

TEACHER = "work_dirs/demo/teacher/weights.safetensors"
STAND_INS = {
    "CONFIG": "configs/demo/demo.py",
    "CHECKPOINT": "work_dirs/demo/student/weights.safetensors",
    "OTHER_CHECKPOINT": TEACHER,
    "IMAGE": "new-photos/1.png",
    "CACHE": "work_dirs/demo/cache",
    "work_dirs/demo/student/iter_600.pth": "work_dirs/demo/student/iter_3.pth",
}
STEPS = {"iterations": 3, "batch_size": 4, "validate_every": 3, "checkpoint_every": 1, "workers": 0}
SCHEDULE = {
    **{f"teacher.{key}": value for key, value in STEPS.items()},
    **{f"student.{key}": value for key, value in STEPS.items()},
    "student.unlabeled_batch_size": 4,
    "student.burn_in": 1,
    "student.refresh_every": 2,
    "student.gate": "off",
    "refine.min_score": 0.2,
    "refine.min_soft_area": 5.0,
}
TRAINING = ("pretrain-teacher", "train-student")
PROMISED = {
    "README.md": ["experiments/mine.py", "work_dirs/mine/student/weights.safetensors", "work_dirs/mine/report.html"],
    "custom-data.md": ["work_dirs/mine/preview.png", "for_mmdet/mmdet_checkpoint.pth", "work_dirs/coins/evaluation.json"],
    "export.md": ["not_averaged.safetensors", "labels.json", "for_yolo/data.yaml"],
    "predict.md": ["answers/predictions.json", "answers/pictures"],
    "report.md": ["work_dirs/demo/report.html", "work_dirs/demo/augmentation.png"],
    "student.md": ["work_dirs/demo/arp.png", "work_dirs/control/student/weights.safetensors"],
}


def s4m(*words: str) -> None:
    """`s4m WORDS` in this process, with trainings made short, and done again where they were done before."""
    words = tuple(STAND_INS.get(word, word) for word in words)
    if words[0] in (*TRAINING, "run", "refine"):
        given = {word.partition("=")[0] for word in words}
        for key, value in SCHEDULE.items():
            words += ("--set", f"{key}={value}") if key not in given else ()
    if words[0] in TRAINING:
        words += ("--overwrite",)
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
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        s4m("data", "split", "data/demo/train.json", "--percent", "50", "--out", "data/demo/split")
        s4m("run", "configs/demo/demo.py", "--set", "student.refresh_every=None")
        s4m("export", "labels", "work_dirs/demo", "in.json")
    return root


@pytest.mark.parametrize("page", [page for page in PAGES if page != PAGE], ids=lambda page: page.name)
def test_page__its_commands_run(page: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch):
    blocks = [block for block in command_blocks(page) if runs(block)]
    if not blocks:
        pytest.skip("no commands that can be run here")
    shutil.copytree(request.getfixturevalue("project"), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    if page.name == "cache.md":
        s4m("cache", "import", "CACHE", "in.json")  # a second generation, to compare with
    for block in sorted(blocks, key=lambda block: block.mark is not None):  # what needs nothing makes what others need
        for line in block.lines:
            if line.words[0] == "s4m":
                s4m(*line.words[1:])
    assert [path for path in PROMISED.get(page.name, []) if not (tmp_path / path).exists()] == []


def runs(block: Block) -> bool:
    has_commands = any(line.words[0] == "s4m" for line in block.lines)
    return has_commands and not (block.mark or "").startswith("needs more")


def test_pages__of_most_commands_are_run():
    assert sum(map(runs, BLOCKS)) > 0.7 * len(BLOCKS)
