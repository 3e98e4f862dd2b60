"""When a student is reported as clearly worse than its teacher."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from s4m_pipeline.config.experiment import Options, load_experiment
from s4m_pipeline.core.paths import STUDENT, TEACHER
from s4m_pipeline.experiment.generation_log import GenerationLog
from s4m_pipeline.experiment.metrics import append_metrics
from s4m_pipeline.student.early_warning import WarnBelowTeacher, falls_below
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("student_aps", "expected"),
    [
        ([], False),
        ([1.0], False),
        ([1.0, 2.0], False),
        ([40.0, 33.0], False),
        ([40.0, 31.0], True),
        ([31.0, 31.0], True),
        ([40.0, 20.0, 30.0], False),
    ],
    ids=["none", "first", "rising", "a little below", "falls", "stays below", "recovers"],
)
def test_falls_below__teacher_of_40__is_true_of_a_student_below_32_that_does_not_rise(
    student_aps: list[float], expected: bool
) -> None:
    assert falls_below(40.0, student_aps) is expected


@pytest.fixture
def options() -> Options:
    """The demo's student starts from its teacher and has a burn-in of 150 iterations."""
    return load_experiment(REPOSITORY / "configs/demo/demo.py", [])[0]


def validate(hook: WarnBelowTeacher, iteration: int, ap: float) -> None:
    append_metrics(hook.experiment / STUDENT, {"step": iteration, "val_AP": ap})
    hook.after_val_epoch(SimpleNamespace(iter=iteration), {"AP": ap})


@pytest.fixture
def hook(options: Options, tmp_path: Path) -> WarnBelowTeacher:
    for stage in (TEACHER, STUDENT):
        (tmp_path / stage).mkdir()
    (tmp_path / TEACHER / "run.json").write_text('{"result": {"AP": 40.0}}')
    return WarnBelowTeacher(tmp_path, options)


def test_hook__student_that_falls_after_the_burn_in__is_reported_once(
    hook: WarnBelowTeacher, capsys: pytest.CaptureFixture[str]
) -> None:
    validate(hook, 150, 10.0)
    assert capsys.readouterr().err == ""
    validate(hook, 300, 9.0)
    validate(hook, 450, 8.0)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "iteration 300  Warning: validation AP 9.0 is clearly below the teacher's 40.0" in said


def test_hook__first_validation_of_a_student_that_starts_from_its_teacher__is_compared_with_it(
    hook: WarnBelowTeacher, capsys: pytest.CaptureFixture[str]
) -> None:
    validate(hook, 300, 4.0)
    assert "AP 4.0 is clearly below" in capsys.readouterr().err


def test_hook__labels_that_refinement_made_worse__are_named_as_the_cause(
    hook: WarnBelowTeacher, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = {"none": {"PQ": 40.0}, "points": {"PQ": 7.0}}
    quality: dict[str, Any] = {"masks": masks, "masks taken": "points"}
    GenerationLog(hook.experiment / STUDENT).record(0, 1, "taken", made=1, quality=quality)
    validate(hook, 300, 4.0)
    said = capsys.readouterr().err
    assert "Refinement made the labels worse" in said
    assert "--set refine.prompt=auto" in said


def test_hook__without_a_validated_teacher__says_nothing(
    options: Options, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / STUDENT).mkdir()
    validate(WarnBelowTeacher(tmp_path, options), 300, 1.0)
    assert capsys.readouterr().err == ""
