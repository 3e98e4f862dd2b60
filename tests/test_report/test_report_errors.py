"""What the report says about errors and data, and its answers to the first questions."""

import json
from typing import Any

import pytest

from s4m_pipeline.apps.report.errors import collect_errors
from s4m_pipeline.core.errors import UserError
from tests.test_report.conftest import CLASSES, NUM_IMAGES, Experiment, write_experiment

TOO_FAR = range(7, NUM_IMAGES + 1)
"""Images of which the teacher's first mask matches no object."""


@pytest.fixture(scope="module")
def contents(finished: Experiment) -> dict[str, Any]:
    return finished.contents()


def test_errors__confusion_is_that_of_the_kept_predictions(contents) -> None:
    stages = contents["errors"]["stages"]
    assert list(stages) == ["student", "teacher"]
    assert stages["student"]["confusion"] == [[NUM_IMAGES, 0, 0], [1, NUM_IMAGES - 1, 0], [0, 0, 0]]
    far = len(TOO_FAR)
    assert stages["teacher"]["confusion"] == [[NUM_IMAGES - far, 0, far], [0, NUM_IMAGES, 0], [far, 0, 0]]
    counts = ("missed", "false positive", "wrong class", "objects", "predictions")
    assert [stages["teacher"][name] for name in counts] == [far, far, 0, 2 * NUM_IMAGES, 2 * NUM_IMAGES]


def test_errors__images_come_by_the_students_errors_with_false_and_missed_objects_marked(contents) -> None:
    images = contents["errors"]["images"]
    assert images[0]["name"] == "1.png"  # the only one with an error of the student
    student = images[0]["stages"]["student"]
    assert [prediction["kind"] for prediction in student["predictions"]] == ["right", "wrong class"]
    last = contents["errors"]["images"][-1]
    number = int(last["name"].partition(".")[0])
    assert last["stages"]["teacher"]["missed"] == ([0] if number in TOO_FAR else [])
    assert [object_["label"] for object_ in last["truth"]] == [0, 1]


def test_errors__of_predictions_on_ground_truth_that_changed__are_not_shown(data_source, tmp_path) -> None:
    experiment = write_experiment(tmp_path / "work", data_source)
    path = experiment.folder / "evaluation.json"
    path.write_text(path.read_text().replace('"annotations": "', '"annotations": "0'))
    with pytest.raises(UserError, match="changed since the predictions were evaluated"):
        collect_errors(experiment.folder, data_source.data, 3)
    notes: list[str] = []
    found = experiment.contents(note=notes.append)
    assert found["errors"] is None and found["answers"]["failures"]
    assert any("evaluate again" in note for note in notes)


def test_answers__name_misses_confusions_and_weak_classes(contents) -> None:
    lines = "\n".join(contents["answers"]["failures"])
    assert f"Of {2 * NUM_IMAGES} objects the student misses 0 %" in lines
    assert f"Most often confused: {CLASSES[1]} taken for {CLASSES[0]} (1)." in lines
    assert "0 % are false positives, 0 % are duplicates, 5 % have the wrong class" in lines


def test_answers__next__are_the_commands_that_are_missing(contents, data_source, tmp_path) -> None:
    assert any("s4m suggest" in line for line in contents["answers"]["next"])
    begun = write_experiment(tmp_path / "work", data_source, until="cache").contents()
    assert begun["answers"]["next"] == ["Finish the experiment: s4m run CONFIG"]


def test_dataset__counts_images_objects_and_classes(contents, data_source) -> None:
    parts = contents["dataset"]["parts"]
    truth = json.loads(data_source.data.path("all.json").read_text())
    assert parts["validation"]["images"] == len(truth["images"]) == parts["unlabeled"]["images"]
    assert parts["labeled"]["objects"] == sum(parts["labeled"]["sizes"]) == len(truth["annotations"])
    assert parts["labeled"]["per class"] == dict.fromkeys(CLASSES, NUM_IMAGES)
    assert parts["unlabeled"]["median size"] == [64, 48]
    assert "objects" not in parts["unlabeled"]
