"""A student whose labels are on S3, as moto serves it: read, refreshed and published there."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from s4m_cache.generations import current_number, generations
from s4m_pipeline.core.locations import cache_location
from tests.test_refine.conftest import assert_same_labels
from tests.test_student.conftest import TrainStudent

pytestmark = pytest.mark.usefixtures("one_thread")


def test_train_student__labels_in_a_store__learns_what_it_does_from_a_folder(
    student_experiment: Path, train_student: TrainStudent, store: Any
) -> None:
    """With a loading process, and with a refresh, whose labels the store gets."""
    store.mkdir("labels")
    store.put(f"{student_experiment / 'work' / 'cache'}/", "labels/cache/", recursive=True)
    short = ("student.iterations=3", "student.workers=1")
    local = train_student("local", *short)
    remote = train_student("remote", *short, "cache.root=s3://labels/cache")

    ours, theirs = (load_file(work / "student/weights.safetensors") for work in (remote, local))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    cache = cache_location("s3://labels/cache")
    assert [known.number for known in generations(cache)] == [1, 2]
    assert current_number(cache) == 2
    assert [known.number for known in generations(remote / "cache")] == [1]  # a copy, which was not used
    assert_same_labels(cache, local / "cache", 2)
