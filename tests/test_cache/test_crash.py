"""Kills of a real process at every step of its commits, and at random times.

A short series runs with the other tests. The long one, with the counts printed:

    S4M_TORTURE=1 pytest tests/test_cache/test_crash.py -s
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s4m_cache.errors import CacheError
from s4m_cache.generation import Generation
from s4m_cache.generations import current
from s4m_cache.reader import CacheReader
from s4m_cache.verify import verify
from test_cache.crash import IMAGE_IDS, label_everything
from test_cache.samples import assert_same_labels, make_labels

TORTURE = "S4M_TORTURE" in os.environ
NUM_STEPS = None if TORTURE else 8
NUM_TIMED = 120 if TORTURE else 4


class Nursery:
    """Starts and kills labeling processes (see `crash.py`)."""

    def __init__(self) -> None:
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "test_cache.crash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"},
        )

    def run(self, root: Path, **request) -> dict:
        self.process.stdin.write(json.dumps({"root": str(root), **request}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert not answer["failed"]
        return answer


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.process.stdin.close()
    nursery.process.wait()


def check_after_kill(root: Path, stored: list[int]) -> None:
    """Nothing half-written is visible, nothing reported as stored is lost, a second run does the rest."""
    generation = Generation(root, 1)
    visible = {}
    if generation.path.exists():
        assert verify(generation).damages == []
        with CacheReader(generation) as reader:
            for image_id in reader.image_ids.tolist():
                assert_same_labels(reader.read(image_id, raw=True), make_labels(image_id))
        visible = {path: (path / "MANIFEST.json").read_bytes() for path in generation.part_paths()}
        assert set(stored) <= set(reader.image_ids.tolist())
    try:
        with CacheReader.current(root) as reader:
            assert reader.image_ids.tolist() == list(IMAGE_IDS)
    except CacheError as error:
        assert "no generation is published" in str(error)

    label_everything(root)

    assert current(root) == generation
    assert generation.leftovers() == []
    assert all((path / "MANIFEST.json").read_bytes() == manifest for path, manifest in visible.items())
    with CacheReader.current(root) as reader:
        assert reader.image_ids.tolist() == list(IMAGE_IDS)
        for image_id in IMAGE_IDS:
            assert_same_labels(reader.read(image_id, raw=True), make_labels(image_id))


def test_commit__killed_at_any_step_loses_nothing_and_resumes(nursery, tmp_path):
    (total,) = nursery.run(tmp_path / "whole")["steps"]
    steps = list(range(1, total + 1))
    if NUM_STEPS:
        steps = random.Random(0).sample(steps[:-8], NUM_STEPS) + steps[-8:]  # the last ones publish

    kills = 0
    for step in steps:
        answer = nursery.run(tmp_path / str(step), step=step)
        kills += answer["killed"]
        check_after_kill(tmp_path / str(step), answer["stored"])

    assert kills == len(steps)
    print(f"\n{kills} kills at {total} steps: nothing half-written visible, nothing lost, all resumed alike")


def test_commit__killed_at_any_time_loses_nothing_and_resumes(nursery, tmp_path):
    start = time.monotonic()
    nursery.run(tmp_path / "whole")
    whole_s = time.monotonic() - start
    delays = random.Random(1)

    kills = 0
    for trial in range(NUM_TIMED):
        answer = nursery.run(tmp_path / str(trial), delay_s=delays.uniform(0, whole_s))
        kills += answer["killed"]
        check_after_kill(tmp_path / str(trial), answer["stored"])

    assert kills >= NUM_TIMED // 2
    print(f"\n{kills} kills at random times of {NUM_TIMED} runs: nothing half-written visible, nothing lost")
