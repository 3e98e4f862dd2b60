"""`s4m report --pictures`: what the page shows is drawn when it is absent or older than the weights."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s4m_pipeline.apps.report.illustrations import _innermost_point, draw_outdated
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_stages.report import page
from tests.test_student.conftest import prepare

NAMES = ("similarity.png", "augmentation.png")


def draw(experiment: Path, work: Path, *overrides: str) -> list[str]:
    """What was noted while the pictures of a work folder were drawn."""
    notes: list[str] = []
    options, config = load_experiment(experiment / "study.py", list(overrides))
    weights = {"teacher": work / "teacher/weights.safetensors"}
    draw_outdated(work, work / "cache", weights, options, config, notes.append)
    return notes


def set_age(path: Path, reference: Path, seconds: float) -> None:
    moment = reference.stat().st_mtime + seconds
    os.utime(path, (moment, moment))


def test_draw_outdated__absent_or_older_than_the_weights__are_drawn_and_others_left(
    student_experiment, tmp_path
):
    work = prepare(student_experiment, tmp_path / "work")
    own, weights = work / NAMES[0], work / "teacher/weights.safetensors"
    Image.new("RGB", (20, 10), "teal").save(own)
    set_age(own, weights, 1)
    assert draw(student_experiment, work) == []
    assert Image.open(own).size == (20, 10)
    drawn = work / NAMES[1]
    assert min(Image.open(drawn).size) > 500
    set_age(own, weights, -1)
    before = drawn.stat().st_mtime_ns
    assert draw(student_experiment, work) == []
    assert min(Image.open(own).size) > 500
    assert drawn.stat().st_mtime_ns == before


def test_draw_outdated__one_that_fails__is_named_and_the_other_drawn(student_experiment, tmp_path):
    work = prepare(student_experiment, tmp_path / "work")
    (work / "teacher/weights.safetensors").write_bytes(b"not weights")
    (note,) = draw(student_experiment, work)
    assert note.startswith("similarity.png could not be drawn: ")
    assert not (work / NAMES[0]).exists()
    assert (work / NAMES[1]).exists()


def test_draw_outdated__faulty_data__end_nothing_and_leave_no_files(student_experiment, tmp_path):
    work = prepare(student_experiment, tmp_path / "work")
    before = sorted(path.name for path in work.iterdir())
    notes = draw(student_experiment, work, "data.val=absent.json")
    assert [note.partition(" ")[0] for note in notes] == list(NAMES)
    assert all("absent.json" in note for note in notes)
    assert sorted(path.name for path in work.iterdir()) == before


def test_innermost_point__of_a_shape_with_a_hole__is_where_it_is_thickest():
    mask = np.zeros((40, 60), bool)
    mask[5:36, 5:56] = True
    mask[10:31, 10:25] = False
    x, y = _innermost_point(mask)
    assert 38 <= x <= 42 and 18 <= y <= 22
    assert _innermost_point(np.ones((9, 9), bool)) == (4, 4)  # the image's edge is an outline, too


def test_page__pictures_without_a_config__are_refused(tmp_path):
    with pytest.raises(UserError, match="--pictures: expected --config"):
        page(tmp_path, config=None, images=0, pictures=True)
    assert not list(tmp_path.iterdir())
