"""`s4m reproduce` without a training: what it asks for, what it skips, and the table."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from s4m_pipeline.apps.reproduce import requirements
from s4m_pipeline.apps.reproduce.requirements import (
    RESNET_FILE,
    SAM,
    SAM_FILE,
    released_networks,
    require_all,
)
from s4m_pipeline.apps.reproduce.steps import Reproduction, experiment, preparation
from s4m_pipeline.apps.reproduce.table import compare_with_paper, write_comparison
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.config.groups import SamOptions
from s4m_pipeline.config.published import CITYSCAPES, COCO, Benchmark
from s4m_pipeline.config.sam_files import OFFICIAL
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.experiment.evaluation_file import write_evaluation
from s4m_pipeline.models.conversion import detectron2
from s4m_pipeline.models.conversion.tables import renamed
from s4m_pipeline.models.load import build_network
from s4m_stages.cli import build_app
from s4m_stages.reproduce import reproduce


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without weights anywhere that they are looked for, and data sets of a few photos."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: None)
    monkeypatch.setattr(requirements, "PHOTOS", dict.fromkeys(requirements.PHOTOS, 2))
    return tmp_path


def lay_out(root: Path, benchmark: Benchmark) -> None:
    for folder in (benchmark.train_images, benchmark.val_images):
        for number in range(2):
            name = f"ulm/ulm_{number}_leftImg8bit.png" if benchmark is CITYSCAPES else f"{number}.jpg"
            _write(root / folder / name)
    if benchmark is COCO:
        _write(root / benchmark.train_json)
        _write(root / benchmark.val_json)
    else:
        _write(root / "gtFine/train/file")
        _write(root / "gtFine/val/file")


def lay_out_weights(folder: Path) -> None:
    _write(folder / "weights" / SAM_FILE)
    _write(folder / "torch/hub/checkpoints" / RESNET_FILE)


def _write(path: Path, content: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def complaint(benchmark: Benchmark, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        require_all(benchmark, folder / "data", {"sam.weights_dir": f"{folder}/weights"})
    return str(caught.value)


def test_reproduce__with_nothing_there__reports_all_of_it_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom s4m_stages.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('LOADED', *[n for n in ('torch', 'mmdet', 'mmengine') if n in sys.modules])"
    )
    empty = {"TORCH_HOME": str(tmp_path), "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, "reproduce", "cityscapes", "nowhere"],
        capture_output=True,
        text=True,
        env={**os.environ, **empty},
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert done.stdout == "LOADED\n"
    for expected in ("cityscapes-dataset.com", "leftImg8bit_trainvaltest.zip", SAM_FILE, RESNET_FILE):
        assert expected in done.stderr
    assert str(tmp_path / "weights") in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("benchmark", [CITYSCAPES, COCO], ids=lambda item: item.name)
def test_requirements__all_there__are_met(benchmark: Benchmark, machine: Path) -> None:
    lay_out(machine / "data", benchmark)
    lay_out_weights(machine)
    require_all(benchmark, machine / "data", {"sam.weights_dir": f"{machine}/weights"})


def test_requirements__weights_replaced_by_others__are_not_asked_for(machine: Path) -> None:
    lay_out(machine / "data", COCO)
    require_all(
        COCO, machine / "data", dict.fromkeys(("sam.model", "teacher.init_from", "student.init_from"), "x")
    )


@pytest.mark.parametrize("benchmark", [CITYSCAPES, COCO], ids=lambda item: item.name)
def test_requirements__data_without_weights__asks_for_these_alone(
    benchmark: Benchmark, machine: Path
) -> None:
    lay_out(machine / "data", benchmark)
    said = complaint(benchmark, machine)
    assert f"{machine}/weights/{SAM_FILE}" in said
    assert f"{machine}/torch/hub/checkpoints/{RESNET_FILE}" in said
    assert "Data:" not in said


@pytest.mark.parametrize(
    ("absent", "package"),
    [
        ("train2017", "train2017.zip"),
        ("val2017", "val2017.zip"),
        ("annotations/instances_val2017.json", "annotations_trainval2017.zip"),
    ],
)
def test_requirements__part_of_coco_missing__names_its_package(
    absent: str, package: str, machine: Path
) -> None:
    lay_out(machine / "data", COCO)
    (machine / "data" / absent).rename(machine / "elsewhere")
    said = complaint(COCO, machine)
    assert f"{package} (no {machine}/data/{absent})" in said
    assert said.count(".zip") == 1


@pytest.mark.parametrize("benchmark", [CITYSCAPES, COCO], ids=lambda item: item.name)
def test_requirements__photos_missing__are_counted(benchmark: Benchmark, machine: Path) -> None:
    lay_out(machine / "data", benchmark)
    folder = machine / "data" / benchmark.val_images
    next(path for path in folder.rglob("*") if path.is_file()).unlink()
    assert f"{folder} holds 1 photos, 2 expected" in complaint(benchmark, machine)


def test_requirements__the_miniature__is_no_data_for_the_paper(machine: Path) -> None:
    lay_out(machine / "data", COCO)
    _write(machine / "data/miniature.json")
    assert "holds the drawn miniature" in complaint(COCO, machine)


def test_requirements__names_of_weights__are_those_that_will_be_loaded() -> None:
    from mmengine.runner.checkpoint import get_torchvision_models

    assert SamOptions().model == SAM
    assert OFFICIAL[SAM][1] == SAM_FILE
    assert get_torchvision_models()["resnet50"].endswith(f"/{RESNET_FILE}")


@pytest.mark.parametrize(("name", "percent"), [("cityscapes", 2), ("coco", 20)])
def test_reproduce__percent_that_the_paper_lacks__is_wrong_usage(name: Any, percent: int) -> None:
    with pytest.raises(typer.BadParameter, match="the paper has"):
        reproduce(name, Path("data"), percent=percent)


def reproduction(root: Path, benchmark: Benchmark = CITYSCAPES, **changes: Any) -> Reproduction:
    settings = {"percent": 10, "devices": 4, "seed": 3, "smoke": False, **changes}
    work = root / "work"
    weights = {stage: work / stage / "weights.safetensors" for stage in ("teacher", "student")}
    return Reproduction(benchmark=benchmark, root=root, work_dir=work, weights=weights, **settings)


def commands(run: Reproduction) -> list[list[str]]:
    return [step.arguments for step in preparation(run)]


def test_preparation__of_fresh_data__converts_and_splits(tmp_path: Path) -> None:
    converting, splitting = commands(reproduction(tmp_path))
    assert converting[:3] == ["data", "convert", "cityscapes"]
    assert splitting[:3] == ["data", "split", str(tmp_path / "annotations/train.json")]
    assert splitting[-4:] == ["--percent", "10", "--out", str(tmp_path / "splits/10")]


def test_preparation__of_a_smoke_run__draws_first(tmp_path: Path) -> None:
    drawing, *others = commands(reproduction(tmp_path, COCO, smoke=True))
    assert drawing[:3] == ["data", "miniature", "coco"]
    assert [arguments[:2] for arguments in others] == [["data", "split"]]


def test_preparation__of_what_is_there__is_empty(tmp_path: Path) -> None:
    for made in ("annotations/train.json", "annotations/val.json", "splits/10/split.json"):
        _write(tmp_path / made)
    assert commands(reproduction(tmp_path)) == []


def test_split_list__published__is_used_for_a_split_of_its_own_and_named(tmp_path: Path) -> None:
    listed = tmp_path / "perc_10.txt"
    run = reproduction(tmp_path, split_list=listed)
    assert commands(run)[-1][-4:] == ["--list", str(listed), "--out", str(tmp_path / "splits/10_perc_10")]
    assert "data.labeled=splits/10_perc_10/labeled.json" in run.settings()
    keep_records(run)
    split = json.loads((run.split / "split.json").read_text())
    split["method"] = {"name": "list", "list": str(listed)}
    _write(run.split / "split.json", json.dumps(split))
    assert compare_with_paper(run).facts["split"].startswith(f"published split {listed}: 298 labeled")


def test_split_list__in_the_authors_form__labels_its_photos_and_may_not_change(
    mini_cityscapes: Path, tmp_path: Path
) -> None:
    images = json.loads((mini_cityscapes / "annotations/train.json").read_text())["images"]
    photos = sorted(image["file_name"] for image in images)[:2]
    listed = tmp_path / "perc_10.txt"
    names = [Path(name).name.replace("leftImg8bit", "gtFine_instanceIds") for name in photos]
    listed.write_text("\n".join(names))
    root = tmp_path / "cityscapes"
    root.mkdir()
    for part in ("annotations", "leftImg8bit"):
        (root / part).symlink_to(mini_cityscapes / part)
    run = reproduction(root, split_list=listed)
    (splitting,) = commands(run)
    done = CliRunner().invoke(build_app(), splitting)
    assert done.exit_code == 0, done.output
    assert json.loads((run.split / "split.json").read_text())["labeled_file_names"] == photos
    assert commands(run) == []
    listed.write_text(names[0])
    with pytest.raises(UserError, match=r"from a different list than .*perc_10\.txt"):
        commands(run)
    listed.write_text("ulm_999999_000019_gtFine_instanceIds.png")
    result = CliRunner().invoke(build_app(), [*splitting, "--force"])
    assert "1 names match no image of the data set: ulm_999999" in str(result.exception)


def test_released__folder_without_the_networks__says_which_names_are_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"Expected {tmp_path}/teacher.pth or {tmp_path}/student.pth:"):
        released_networks(tmp_path, [])
    _write(tmp_path / "student.pth")
    assert released_networks(tmp_path, []) == {"student": f"{tmp_path}/student.pth#student"}
    with pytest.raises(UserError, match=rf"Expected {tmp_path}/teacher.pth: "):
        released_networks(tmp_path, ["student"])


def test_released__teacher__is_what_the_student_is_trained_from(tmp_path: Path) -> None:
    run = reproduction(tmp_path, COCO, percent=2, released={"teacher": "t.pth#teacher"})
    *_, importing = commands(run)
    assert importing == ["export", "weights", str(run.config), "t.pth#teacher", str(run.weights["teacher"])]
    (step,) = experiment(run)
    assert step.arguments[0] == "run"
    assert step.arguments[-2:] == ["--from", "refine"]


@pytest.mark.slow
def test_reproduce__released_student__is_scored_beside_the_paper(
    mini_cityscapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    _, config = load_experiment(CITYSCAPES.config(smoke=True), [])
    tensors = build_network(config, 8).state_dict()
    names = [(here, there) for there, here in detectron2.TABLE if here is not None]
    theirs = renamed(tensors, names)
    whose = ("Teacher", "Student")
    model = {f"model{which}.{name}": value for which in whose for name, value in theirs.items()}
    torch.save({"model": model, "iteration": 1}, tmp_path / "student.pth")
    work = tmp_path / "work"
    reproduce("cityscapes", mini_cityscapes, profile="smoke", released=tmp_path, work_dir=work)
    table = (work / "reproduction.md").read_text()
    assert "| teacher with structural distillation | - | - | 22.5 |" in table
    assert "| student | 0.0 | 0.0 | 33.3 |" in table
    assert f"| published student | {tmp_path}/student.pth#student, sha256:" in table
    assert not (work / "student/run.json").exists()
    run = reproduction(
        tmp_path, smoke=True, trains=False, released={"student": f"{tmp_path}/student.pth#student"}
    )
    assert [arguments[0] for arguments in commands(run) if arguments[0] == "export"] == []
    torch.save({"model": {}}, tmp_path / "student.pth")
    with pytest.raises(
        UserError, match=r"does not come from .*student.pth#student.\nGive another --work-dir"
    ):
        commands(run)


def test_experiment__passes_seeds_gpus_and_settings_to_all_stages(tmp_path: Path) -> None:
    run = reproduction(tmp_path, overrides=("student.workers=9",))
    steps = [step.arguments for step in experiment(run)]
    assert [arguments[0] for arguments in steps] == ["run", "evaluate", "evaluate", "run"]
    for arguments in steps:
        for expected in ("teacher.seed=3", "refine.seed=3", "student.seed=3", "student.workers=9"):
            assert expected in arguments
    assert steps[0][2:4] == ["--devices", "4"]
    assert steps[0][-2:] == ["--until", "student"]
    assert "--benchmark" in steps[1]


def test_experiment__overwrite__is_for_the_trainings_alone(tmp_path: Path) -> None:
    run = reproduction(tmp_path, overwrite=True)
    overwriting = [step.arguments[0] for step in experiment(run) if "--overwrite" in step.arguments]
    assert overwriting == ["run", "run"]


def test_experiment__scored_by_the_benchmark__is_not_scored_again(tmp_path: Path) -> None:
    run = reproduction(tmp_path)
    keep_records(run)
    scored = [step.arguments[2] for step in experiment(run) if step.arguments[0] == "evaluate"]
    assert scored == [str(run.weights["teacher"])]
    run.weights["student"].write_text("trained again")
    assert len([step for step in experiment(run) if step.arguments[0] == "evaluate"]) == 2


def keep_records(run: Reproduction) -> None:
    """The files that the stages leave, with figures of our own."""
    session = {"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T06:30:00+00:00"}
    teacher = {"iterations": 90_000, "batch_size": 4, "seed": 3}
    student = {**teacher, "batch_size": 16, "unlabeled_batch_size": 16, "burn_in": 15_000}
    config = {
        "teacher": teacher,
        "student": {**student, "refresh_every": 5_000},
        "refine": {"seed": 3},
        "sam": {"model": SAM},
    }
    record = {
        "config": config,
        "sessions": [{**session, "device": "GPU of a kind", "host": "node7"}],
        "git": {"commit": "abc", "changed": True},
    }
    result = {"AP": 30.26, "cityscapes": {"AP": 28.04}}
    labels = {
        "made": 1,
        "statistics": {"seconds: teacher": 1800.0, "seconds: encoder": 1800.0, "mean score": 0.9},
    }
    split = {
        "method": {"name": "percent", "percent": 10, "seed": 0},
        "labeled": {"images": 298},
        "unlabeled": {"images": 2677},
    }
    for stage, weights in run.weights.items():
        _write(run.work_dir / stage / "run.json", json.dumps(record))
        _write(weights, stage)
    write_evaluation(run.weights["student"], "val", result)
    write_evaluation(run.weights["teacher"], "val", {"AP": None})
    _write(run.work_dir / "student/generations.jsonl", json.dumps(labels) + "\n")
    _write(run.split / "split.json", json.dumps(split))


def test_table__of_cityscapes__has_both_kinds_of_ap_beside_the_papers(tmp_path: Path) -> None:
    run = reproduction(tmp_path)
    keep_records(run)
    comparison = compare_with_paper(run)
    assert comparison.rows == [
        ["teacher from labels alone", "-", "-", "19.0"],
        ["teacher with structural distillation", "-", "-", "22.5"],
        ["student", "28.0", "30.3", "33.3"],
    ]
    assert comparison.facts["split"] == "10 % chosen with seed 0: 298 labeled, 2,677 unlabeled"
    assert comparison.facts["seeds"] == "teacher 3, student 3, refine 3"
    assert comparison.facts["schedule of the teacher"] == "90,000 iterations, batch size 4"
    assert comparison.facts["hardware"] == "4 x GPU of a kind, host node7"
    assert comparison.facts["time of the student"] == "6 h 30 min (6.50 h)"
    assert comparison.facts["time of the first pseudo-labels, all processes"] == "1 h 0 min (1.00 h)"
    assert comparison.facts["commit"] == "abc with changes"


@pytest.mark.parametrize(("method", "figure"), [("pais", "22.9"), ("polite_teacher", "-")])
def test_table__of_another_method__has_its_reported_figure(method: Any, figure: str, tmp_path: Path) -> None:
    run = reproduction(tmp_path, method=method)
    keep_records(run)
    assert compare_with_paper(run).rows[-1] == [method, "28.0", "30.3", figure]


def test_table__of_coco__has_one_column_of_ours(tmp_path: Path) -> None:
    run = reproduction(tmp_path, COCO, percent=2)
    keep_records(run)
    comparison = compare_with_paper(run)
    assert comparison.columns == ["", "ours, COCO AP", "paper, COCO AP"]
    assert comparison.rows[-1] == ["student", "30.3", "28.1"]


def test_table__written__is_markdown_with_figures_and_facts(tmp_path: Path) -> None:
    run = reproduction(tmp_path, overrides=("student.workers=9",))
    keep_records(run)
    text = write_comparison(compare_with_paper(run), tmp_path).read_text()
    assert "| student | 28.0 | 30.3 | 33.3 |" in text
    assert "| changed settings | student.workers=9 |" in text
