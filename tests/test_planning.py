"""What `s4m run` decides about a training, from the files of an experiment that was never trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.experiment.changes import plain
from s4m_pipeline.planning.dependencies import teacher_dependencies
from s4m_pipeline.planning.plan import Experiment, Plan, Planner, require_overwrite
from s4m_pipeline.train.launch import student_batch_sizes


def experiment(config_path: Path, folder: Path, *overrides: str) -> Experiment:
    options, config = load_experiment(config_path, overrides)
    return Experiment(config_path=config_path, config=config, options=options, folder=folder, devices=1)


def record_teacher(config_path: Path, folder: Path, status: str, *checkpoints: int) -> None:
    """What a training leaves that was stopped or finished."""
    found = experiment(config_path, folder)
    settings, contents = teacher_dependencies(found.options, found.config)
    result = {"AP": 42.91} if status == "finished" else None
    run = {"status": status, "config": plain(settings), "data": contents, "sessions": [], "result": result}
    (folder / "teacher").mkdir()
    (folder / "teacher/run.json").write_text(json.dumps(run))
    for step in checkpoints:
        (folder / f"teacher/iter_{step}.pth").touch()


def plan_teacher(config_path: Path, folder: Path, *overrides: str) -> Plan:
    return Planner(experiment(config_path, folder, *overrides)).plan("teacher")


def test_planner__teacher_that_was_never_trained__is_started(tiny_config: Path, tmp_path: Path) -> None:
    plan = plan_teacher(tiny_config, tmp_path)
    assert plan.text == "not started"
    assert plan.arguments == ["pretrain-teacher", str(tiny_config), "--devices", "1"]


@pytest.mark.parametrize(
    ("status", "checkpoints", "text", "start_step"),
    [
        ("running", [], "starts from scratch (interrupted before its first checkpoint)", 0),
        ("running", [200, 1000], "resumes from iteration 1000 (interrupted before)", 1000),
        ("failed", [400], "resumes from iteration 400 (failed before)", 400),
        ("interrupted", [400], "resumes from iteration 400 (interrupted before)", 400),
    ],
)
def test_planner__teacher_that_was_stopped__is_resumed(
    status: str, checkpoints: list[int], text: str, start_step: int, tiny_config: Path, tmp_path: Path
) -> None:
    record_teacher(tiny_config, tmp_path, status, *checkpoints)
    plan = plan_teacher(tiny_config, tmp_path)
    assert (plan.text, plan.start_step, list(plan.changed)) == (text, start_step, [])
    assert plan.arguments is not None and "--overwrite" not in plan.arguments


@pytest.mark.parametrize("overrides", [[], ["teacher.workers=3", "teacher.keep_checkpoints=9"]])
def test_planner__finished_teacher__is_skipped(overrides: Any, tiny_config: Path, tmp_path: Path) -> None:
    record_teacher(tiny_config, tmp_path, "finished", 6)
    plan = plan_teacher(tiny_config, tmp_path, *overrides)
    assert (plan.text, plan.arguments) == ("finished (validation AP 42.9)", None)


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_planner__changed_settings__are_named_and_need_overwrite(
    status: str, tiny_config: Path, tmp_path: Path
) -> None:
    record_teacher(tiny_config, tmp_path, status, 4)
    changed = ("teacher.seed=3", "teacher.ema=0.9", "teacher.batch_size=4", "teacher.iterations=8")
    plan = plan_teacher(tiny_config, tmp_path, *changed)
    assert plan.text == (
        "re-run, because teacher.batch_size changed: 2 -> 4; teacher.ema changed: 0.5 -> 0.9; "
        "teacher.iterations changed: 6 -> 8; and 1 more"
    )
    assert plan.arguments is not None and plan.arguments[-1] == "--overwrite"
    with pytest.raises(UserError, match=r"(?s)seed changed: 0 -> 3.*--work-dir NEW.*--overwrite"):
        require_overwrite(tmp_path, [plan])


def test_planner__setting_that_the_record_is_older_than__had_its_default(
    tiny_config: Path, tmp_path: Path
) -> None:
    record_teacher(tiny_config, tmp_path, "finished", 6)
    path = tmp_path / "teacher/run.json"
    run = json.loads(path.read_text())
    assert run["config"]["teacher"].pop("precision") == "fp32"
    path.write_text(json.dumps(run))
    assert plan_teacher(tiny_config, tmp_path).text == "finished (validation AP 42.9)"
    plan = plan_teacher(tiny_config, tmp_path, "teacher.precision=bf16")
    assert plan.text == "re-run, because teacher.precision changed: fp32 -> bf16"


def test_planner__changed_settings_of_a_training_that_saved_nothing__need_no_overwrite(
    tiny_config: Path, tmp_path: Path
) -> None:
    record_teacher(tiny_config, tmp_path, "failed")
    plan = plan_teacher(tiny_config, tmp_path, "teacher.seed=3")
    assert plan.text == "starts from scratch (failed before its first checkpoint)"
    require_overwrite(tmp_path, [plan])


def test_planner__stages_after_one_that_is_due__wait(tiny_config: Path, tmp_path: Path) -> None:
    plans = Planner(experiment(tiny_config, tmp_path)).plan_all(["teacher", "refine", "student", "report"])
    assert [plan.text for plan in plans] == [
        "not started",
        "the config has no data.unlabeled",
        "there are no unlabeled images to learn from",
        "runs after the stages before it",
    ]


def test_planner__student_without_unlabeled_images__needs_no_labels(
    tiny_config: Path, tmp_path: Path
) -> None:
    of_labeled = ("student.source=labeled", "student.refresh_every=None", "data.unlabeled=x.json")
    plans = Planner(experiment(tiny_config, tmp_path, *of_labeled)).plan_all(["refine", "student"])
    assert [plan.text for plan in plans] == ["not needed: student.source is 'labeled'", "not started"]


def test_student_batch_sizes__too_few_images_for_arp__are_refused(tiny_config: Path) -> None:
    options, _ = load_experiment(tiny_config, ["student.unlabeled_batch_size=1"])
    with pytest.raises(UserError, match="leave ARP nothing to paste"):
        student_batch_sizes(options.require_student(), 1)
