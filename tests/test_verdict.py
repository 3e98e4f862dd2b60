"""The verdict on student and teacher, its likely causes, and the best weights that are handed on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s4m_pipeline.config.experiment import Options, load_experiment
from s4m_pipeline.config.groups import Split
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.evaluation.causes import likely_causes
from s4m_pipeline.evaluation.matches import Matches
from s4m_pipeline.evaluation.verdict import run_command, write_verdict
from s4m_pipeline.experiment.best import best_weights, update_best
from s4m_pipeline.experiment.evaluation_file import conditions, is_own, matches_file, write_evaluation

COMMAND = "s4m run demo.py"


@pytest.fixture(scope="module")
def options(tiny_config: Path) -> Options:
    """A config with a test split."""
    return load_experiment(tiny_config, [])[0]


@pytest.fixture(scope="module")
def without_test(options: Options) -> Options:
    without_test = options.data.model_copy(update={"test": None, "test_images": None})
    return options.model_copy(update={"data": without_test})


def matches(share_right: float, num_images: int = 40) -> Matches:
    """Ten objects and ten predictions in each image, of which about a share are right."""
    rng = np.random.default_rng(0)
    right = rng.random(10 * num_images) < share_right  # the same draws: more are right, never others
    return Matches(
        image_ids=np.arange(num_images),
        num_objects=np.full((num_images, 1), 10),
        image=np.repeat(np.arange(num_images), 10),
        label=np.zeros(10 * num_images, np.int64),
        score=rng.random(10 * num_images),
        matched=np.repeat(right[:, None], 10, axis=1),
        ignored=np.zeros((10 * num_images, 10), np.bool_),
    )


def evaluated(folder: Path, split: str = "test", num_images: int = 40, **shares: float) -> None:
    """Give stages weights and results."""
    for stage, share in shares.items():
        weights = folder / stage / "weights.safetensors"
        weights.parent.mkdir(exist_ok=True)
        weights.write_text(f"{stage} {share}")
        found = matches(share, num_images)
        found.save(matches_file(folder / stage, split))
        (score,) = found.average_precision(np.ones((1, num_images)))
        write_evaluation(weights, split, {"AP": float(score), "conditions": {}})


def test_verdict__better_student_with_a_control_needs_no_advice(tmp_path: Path, options: Options) -> None:
    evaluated(tmp_path, teacher=0.3, student=0.6, control=0.4)
    verdict = write_verdict(tmp_path, options, COMMAND)
    assert verdict is not None
    assert verdict.student_is_better
    assert verdict.differences.keys() == {"teacher", "control"}
    text = "\n".join(verdict.lines(COMMAND))
    assert "data.test (40 images)" in text
    assert "The student is better than its teacher: difference in AP +" in text
    assert "Warning" not in text
    assert "optimistic" not in text
    assert COMMAND not in text
    assert json.loads((tmp_path / "verdict.json").read_text())["text"] == verdict.lines(COMMAND)


def test_verdict__worse_student_is_a_warning_with_cause_and_command(tmp_path: Path, options: Options) -> None:
    evaluated(tmp_path, teacher=0.6, student=0.3)
    logged(tmp_path, refined(own=40.1, points=7.1))
    verdict = write_verdict(tmp_path, options, COMMAND)
    assert verdict is not None
    text = "\n".join(verdict.lines(COMMAND))
    assert "Warning: the student is worse than its teacher: difference in AP -" in text
    assert "Refinement made the labels worse" in text
    assert f"{COMMAND} --set refine.prompt=auto --overwrite" in text
    assert f"{COMMAND} --control" in text


def test_verdict__equal_student_is_not_shown_to_be_better(tmp_path: Path, options: Options) -> None:
    evaluated(tmp_path, teacher=0.5, student=0.5)
    verdict = write_verdict(tmp_path, options, COMMAND)
    assert verdict is not None
    text = "\n".join(verdict.lines(COMMAND))
    assert "Warning: the student is not shown to be better than its teacher: difference in AP +0.0" in text
    assert "Nothing that was measured explains it" in text


def test_verdict__single_image_gives_no_interval_and_says_so(tmp_path: Path, options: Options) -> None:
    evaluated(tmp_path, num_images=1, teacher=0.2, student=0.9)
    verdict = write_verdict(tmp_path, options, COMMAND)
    assert verdict is not None
    assert not verdict.student_is_better
    assert "no interval: a single image" in "\n".join(verdict.lines(COMMAND))


def test_verdict__without_a_test_split_is_optimistic_and_says_by_what(
    tmp_path: Path, without_test: Options
) -> None:
    evaluated(tmp_path, "val", teacher=0.3, student=0.6)
    verdict = write_verdict(tmp_path, without_test, COMMAND)
    assert verdict is not None
    (caution,) = [line for line in verdict.lines(COMMAND) if "optimistic" in line]
    assert "best.safetensors" in caution
    assert "data.test" in caution


def test_verdict__results_of_replaced_weights_or_other_conditions_do_not_count(
    tmp_path: Path, options: Options
) -> None:
    evaluated(tmp_path, teacher=0.3, student=0.6)
    assert write_verdict(tmp_path, options, COMMAND) is not None
    (tmp_path / "student/weights.safetensors").write_text("trained again")
    assert write_verdict(tmp_path, options, COMMAND) is None
    assert not (tmp_path / "verdict.json").exists()
    evaluated(tmp_path, student=0.6)
    other = {"AP": 1.0, "conditions": {"annotations": "other"}}
    write_evaluation(tmp_path / "teacher/weights.safetensors", "test", other)
    assert write_verdict(tmp_path, options, COMMAND) is None


def logged(folder: Path, *entries: dict[str, Any]) -> None:
    """Write the student's generations.jsonl."""
    (folder / "student").mkdir(exist_ok=True)
    lines = [
        {"step": step, "generation": step + 1, "made": step + 1, "decision": "taken", **entry}
        for step, entry in enumerate(entries)
    ]
    (folder / "student/generations.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def labels(count: float) -> dict[str, Any]:
    return {"statistics": {"instances per image": count}}


def measured(**figures: Any) -> dict[str, Any]:
    return {"quality": {"held_out": {"instances": 90, "objects": 100, "CA": 90.0, **figures}}}


def refined(own: float, points: float) -> dict[str, Any]:
    masks = {"none": {"PQ": own}, "points": {"PQ": points}}
    return {"quality": {"masks": masks, "masks taken": "points"}}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        pytest.param([measured()], None, id="nothing"),
        pytest.param([measured(CA=40.0)], "class accuracy", id="classes"),
        pytest.param([measured(instances=12)], "12 for 100 objects", id="few-labels"),
        pytest.param([labels(5.0), labels(1.0)], "5 per image at first, 1 later", id="collapse"),
        pytest.param([labels(5.0), {**labels(4.0), "decision": "rejected"}], "gen-0002", id="refused"),
        pytest.param([refined(own=70.0, points=75.0)], None, id="refinement-helped"),
    ],
)
def test_causes__what_the_labels_show(
    entries: list[dict[str, Any]], expected: str | None, tmp_path: Path, options: Options
) -> None:
    logged(tmp_path, *entries)
    found = likely_causes(tmp_path, options)
    assert [expected in cause.text for cause in found] == ([] if expected is None else [True])


def test_causes__few_labels_of_wrong_classes__do_not_ask_for_opposite_thresholds(
    tmp_path: Path, options: Options
) -> None:
    logged(tmp_path, measured(CA=40.0, instances=12))
    classes, few = likely_causes(tmp_path, options)
    assert "class accuracy" in classes.text
    assert classes.settings == ""
    assert float(few.settings.partition("=")[2]) < options.refine.min_score


@pytest.mark.parametrize(("scores", "short"), [((10, 20, 30), True), ((10, 30, 30.2), False), ((30,), False)])
def test_causes__validation_ap_that_still_rises_is_a_short_training(
    scores: tuple[float, ...], short: bool, tmp_path: Path, options: Options
) -> None:
    (tmp_path / "student").mkdir()
    lines = [json.dumps({"step": step, "val_AP": score}) for step, score in enumerate(scores)]
    (tmp_path / "student/metrics.jsonl").write_text("\n".join(lines) + "\n")
    found = likely_causes(tmp_path, options)
    assert ["too short" in cause.text for cause in found] == [True] * short


def trained(folder: Path, **scores: float | None) -> None:
    """Give stages finished trainings with a validation AP."""
    for stage, score in scores.items():
        weights = folder / stage / "weights.safetensors"
        weights.parent.mkdir(exist_ok=True)
        new = weights.with_name("new")  # as weights are written: never in place
        new.write_text(f"{stage} {score}")
        new.replace(weights)
        run = {"status": "finished", "result": {"AP": score}}
        (weights.parent / "run.json").write_text(json.dumps(run))


def test_best__is_the_stage_of_the_highest_validation_ap(tmp_path: Path) -> None:
    trained(tmp_path, teacher=31.0, student=3.8, control=26.0)
    update_best(tmp_path)
    path, reason = best_weights(tmp_path)
    assert path.read_text() == "teacher 31.0"
    assert reason == "the teacher, validation AP 31.0 (student 3.8, control 26.0)"


def test_best__follows_each_training(tmp_path: Path) -> None:
    trained(tmp_path, teacher=18.9)
    update_best(tmp_path)
    assert best_weights(tmp_path)[0].read_text() == "teacher 18.9"
    trained(tmp_path, student=26.3)
    update_best(tmp_path)
    assert best_weights(tmp_path)[0].read_text() == "student 26.3"
    assert (tmp_path / "teacher/weights.safetensors").read_text() == "teacher 18.9"
    trained(tmp_path, student=None)
    update_best(tmp_path)
    assert best_weights(tmp_path)[1] == "the teacher, validation AP 18.9 (student 0.0)"


def test_best__before_the_first_finished_training_is_refused_with_the_command(tmp_path: Path) -> None:
    trained(tmp_path, teacher=18.9)
    (tmp_path / "teacher/run.json").write_text('{"status": "interrupted", "result": null}')
    update_best(tmp_path)
    with pytest.raises(UserError, match=r"has no best\.safetensors(.|\n)*s4m run CONFIG"):
        best_weights(tmp_path)


def test_run_command__names_what_differs_from_the_default() -> None:
    assert run_command(Path("c/demo.py"), Path("work_dirs/demo"), []) == "s4m run c/demo.py"
    assert (
        run_command(Path("demo.py"), Path("x y"), ["a.b=1"]) == "s4m run demo.py --set a.b=1 --work-dir 'x y'"
    )


def test_is_own__result_on_other_data_or_settings__is_not_the_experiments(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.json").write_text(name)
    data = {"root": str(tmp_path), "val": "a.json", "test": None}
    trained = {"data": data, "model": {"queries": 1}, "test_pipeline": []}
    stage = tmp_path / "work" / "teacher"
    stage.mkdir(parents=True)
    (stage / "run.json").write_text(json.dumps({"config": trained}))
    config = {**trained, "data": {**data, "val": "b.json", "test": "c.json"}}  # changed since the training

    def own(split: Split, name: str, **changes: object) -> bool:
        return is_own(stage, split, config, conditions(tmp_path / f"{name}.json", {**trained, **changes}))

    assert own("val", "a")
    assert not own("val", "b")
    assert own("test", "c")  # named after the training
    assert not own("test", "a")
    assert not own("val", "a", model={"queries": 2})
    (tmp_path / "a.json").write_text("corrected")
    assert own("val", "a")
