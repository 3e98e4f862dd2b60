"""The catalog of messages: each kind of a user's mistake, what `s4m` says of it, and its exit code."""

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors.torch import load_file, save_file
from test_cache.samples import make_published

from s4m_cache import sealed
from s4m_cache.generation import SPEC
from s4m_stages.cli import main


class Message(NamedTuple):
    """What a command says that cannot be done, and its exit code: 1, or 2 for wrong usage."""

    command: str
    what: str
    where: str
    next_step: str
    code: int = 1


CATALOG = {
    # Configs and settings
    "config absent": Message("run absent.py", "No config file", "absent.py", "Expected the path"),
    "config broken": Message("run broken.py", "cannot be read as a config", "broken.py", "SyntaxError"),
    "settings unknown": Message(
        "run {config} --set teacher.iteratons=3 --set refin.points=2",
        "2 fault(s)",
        "teacher.iteratons",
        "did you mean teacher.iterations?",
    ),
    "setting of another type": Message(
        "run {config} --set refine.points=many", "1 fault(s)", "refine.points", "a whole number expected"
    ),
    "stages in the wrong order": Message(
        "run {config} --from student --until teacher", "comes before", "--until teacher", "--from student", 2
    ),
    "command unknown": Message("trian", "No such command", "trian", "Try 's4m --help'", 2),
    # Data sets
    "labels absent": Message(
        "pretrain-teacher {config} --set data.labeled=absent.json",
        "cannot be read",
        "absent.json",
        "Expected",
    ),
    "labels in an archive": Message("data check labels.zip", "not JSON", "labels.zip", "unpack it"),
    "labels of another kind": Message(
        "data check list.json", "not a COCO data set", "list.json", "expected an object"
    ),
    "labels outside the folder": Message(
        "pretrain-teacher {config} --set data.labeled={here}/outside.json",
        "outside the image folder",
        "../1.png",
        "s4m data check",
    ),
    "images absent": Message(
        "pretrain-teacher {config} --set data.train_images=absent", "not found", "1.png", "s4m data check"
    ),
    "validation image among the labeled": Message(
        "pretrain-teacher {config} --set data.val=train.json --set data.val_images=train",
        "also in the validation set",
        "train.json",
        "Remove them",
    ),
    "unlabeled folder absent": Message(
        "refine {config} --teacher {weights} --set data.unlabeled=absent",
        "does not exist",
        "data.unlabeled",
        "s4m data split",
    ),
    "percentage impossible": Message(
        "data split {data}/train.json --images {data}/train --percent 120 --out split",
        "120",
        "--percent",
        "below 100",
    ),
    "Cityscapes absent": Message(
        "data convert cityscapes empty",
        "missing folders",
        "empty/leftImg8bit",
        "download gtFine_trainvaltest.zip",
    ),
    # Checkpoints
    "checkpoint absent": Message(
        "evaluate {config} absent.pth", "No checkpoint", "absent.pth", "Expected a .safetensors"
    ),
    "checkpoint cut off": Message(
        "evaluate {config} cut.safetensors", "is damaged", "cut.safetensors", "copy it again"
    ),
    "checkpoint with code": Message(
        "evaluate {config} hostile.pth", "would run its code", "hostile.pth", "--trust-checkpoint"
    ),
    "checkpoint of other classes": Message(
        "refine {config} --teacher other.safetensors --set data.unlabeled=train.json",
        "different classes",
        "other.safetensors",
        "--allow-partial",
    ),
    "checkpoint of another network": Message(
        "evaluate {config} {weights} --set model.panoptic_head.num_queries=7",
        "does not fit the model",
        "weights.safetensors",
        "num_queries",
    ),
    "SAM unknown": Message(
        "refine {config} --teacher {weights} --set data.unlabeled=train.json --set sam.model=facebook/sam9",
        "unknown model",
        "sam.model",
        "or one of: nano",
    ),
    # Stages before those that they need
    "no teacher": Message(
        "refine {config} --work-dir empty", "No finished teacher", "empty/teacher", "s4m pretrain-teacher"
    ),
    "no best weights": Message(
        "predict {config} {data}/test --work-dir empty", "has no best", "empty", "s4m run"
    ),
    "nothing to report": Message("report empty", "nothing to report", "empty", "s4m pretrain-teacher"),
    "run record damaged": Message(
        "run {config} --work-dir torn", "is damaged", "torn/teacher/run.json", "Delete it"
    ),
    "work folder is a file": Message(
        "pretrain-teacher {config} --work-dir list.json", "Cannot use", "list.json", "another --work-dir"
    ),
    # The cache
    "shard impossible": Message("refine {config} --shard 9/8", "9/8", "shard", "as in 3/8"),
    "cache absent": Message("cache info empty", "not a cache", "empty", "s4m refine"),
    "generation absent": Message(
        "cache publish cache --generation 9", "does not exist", "gen-0009", "s4m cache info"
    ),
    "cache damaged": Message("cache info damaged", "MANIFEST.json", "part-0001-000001", "s4m cache repair"),
    "cache of a newer version": Message(
        "cache info newer", "written by a newer version", "gen-0001", "pdate"
    ),
    "labels of unknown images": Message(
        "cache import cache {data}/train.json", "not among", "1.png", "--unlabeled"
    ),
    # Programs around the stages
    "images to predict absent": Message(
        "predict {config} {weights} absent", "Not found", "absent", "Expected image files"
    ),
    "name taken": Message(
        "init tiny --images {data}/train --labels {data}/train.json --unlabeled {data}/test --out taken",
        "exists",
        "tiny.py",
        "--out",
    ),
    "table unknown": Message("ablation {config} --table nonsense", "nonsense", "--table", "components", 2),
    "raw data absent": Message("reproduce coco empty", "missing", "annotations", "ownload"),
}


@pytest.fixture(scope="module")
def places(
    tiny_coco: Any, tiny_config: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
):
    """What the commands name, and the folder that they are run in, with a faulty file of each kind."""
    here = tmp_path_factory.mktemp("messages")
    (here / "empty").mkdir()
    (here / "broken.py").write_text("teacher = dict(")
    (here / "list.json").write_text("[1]")
    (here / "labels.zip").write_bytes(b"PK\x03\x04...")
    document = json.loads(tiny_coco.annotations("train").read_text())
    document["images"][0]["file_name"] = "../1.png"
    (here / "outside.json").write_text(json.dumps(document))
    (here / "cut.safetensors").write_bytes(tiny_checkpoint.read_bytes()[:5000])
    (here / "hostile.pth").write_bytes(pickle.dumps({"state_dict": print}))
    save_file(load_file(tiny_checkpoint), here / "other.safetensors", {"classes": '["cat", "dog"]'})
    (here / "torn/teacher").mkdir(parents=True)
    (here / "torn/teacher/run.json").write_text("{")
    (here / "taken").mkdir()
    (here / "taken/tiny.py").touch()
    make_published(here / "cache")
    for name in ("damaged", "newer"):
        shutil.copytree(here / "cache", here / name)
    (here / "damaged/gen-0001/parts/part-0001-000001/MANIFEST.json").write_bytes(b"{}")
    spec = here / "newer/gen-0001" / SPEC
    sealed.write(spec, {**sealed.read(spec), "version": 99})
    return {"here": here, "config": tiny_config, "data": tiny_coco.root, "weights": tiny_checkpoint}


@pytest.mark.parametrize("message", CATALOG.values(), ids=CATALOG)
def test_s4m__mistake_of_a_user__is_reported_with_what_where_and_the_next_step(
    message: Message,
    places: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(places["here"])
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setattr(sys, "argv", ["s4m", *message.command.format(**places).split()])
    monkeypatch.setitem(sys.modules, "transformers", None)  # as `main` does; undone at the end
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == message.code, said
    assert "Traceback" not in said and "bug in s4m" not in said, said
    for part in (message.what, message.where, message.next_step):
        assert part in " ".join(said.split()), said
