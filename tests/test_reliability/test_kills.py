"""Kills of `s4m run` at random moments of all its stages: what is resumed ends in the same weights.

A short series runs with the other tests. The long one, with the counts printed:

    S4M_TORTURE=1 pytest tests/test_reliability/test_kills.py -s
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from s4m_cache.generations import generations
from s4m_cache.verify import verify
from s4m_pipeline.models.checkpoint import read_weights
from s4m_pipeline.models.unpickling import load_checkpoint
from tests.conftest import REPOSITORY
from tests.test_student.conftest import student_experiment  # noqa: F401 (a fixture)

NUM_KILLS = 200 if "S4M_TORTURE" in os.environ else 3
WAYS = {
    f"{name} to {whom}": {"signal": getattr(signal, name), "to_all": whom == "all"}
    for name in ("SIGKILL", "SIGTERM")
    for whom in ("all", "the parent")
}
RESULTS = ("teacher/weights.safetensors", "student/weights.safetensors", "best.safetensors")


class Zygote:
    """Starts and kills `s4m` (see `zygote.py`)."""

    def __init__(self) -> None:
        folders = (REPOSITORY, REPOSITORY / "cache", REPOSITORY / "stages")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.test_reliability.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": ":".join(map(str, folders)), "OMP_NUM_THREADS": "1"},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def zygote():
    zygote = Zygote()
    yield zygote
    zygote.process.stdin.close()
    zygote.process.wait()


@pytest.fixture(scope="module")
def config(student_experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """All stages in seconds: the teacher is trained, the student refreshes its labels twice."""
    weights = student_experiment / "work/teacher/weights.safetensors"
    path = tmp_path_factory.mktemp("kills") / "chain.py"
    path.write_text(
        f"""
_base_ = [{str(student_experiment / "study.py")!r}]
teacher = dict(
    _delete_=True, iterations=4, batch_size=2, workers=0, init_from={str(weights)!r}, validate_every=4,
    checkpoint_every=2, log_every=1,
)
student = dict(iterations=5, burn_in=1, refresh_every=2, checkpoint_every=2)
"""
    )
    return path


def results(work: Path) -> dict[str, Any]:
    """What must not depend on kills: all weights, and which labels were used from which iteration on."""
    log = [json.loads(line) for line in (work / "student/generations.jsonl").read_text().splitlines()]
    tensors = {name: read_weights(work / name).tensors for name in RESULTS}
    labels = [(entry["step"], entry["generation"], entry["decision"]) for entry in log]
    return {"labels": labels, **tensors}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["labels"] == expected["labels"]
    for name in RESULTS:
        assert found[name].keys() == expected[name].keys()
        assert all(torch.equal(tensor, expected[name][key]) for key, tensor in found[name].items()), name


def assert_loadable(work: Path) -> None:
    """Everything that has its final name is whole."""
    for path in work.glob("*/iter_*.pth"):
        load_checkpoint(path)
    for path in work.glob("*/*.safetensors"):
        read_weights(path)
    for generation in generations(work / "cache"):
        assert verify(generation).damages == []


def stage_of(said: str) -> str:
    """The stage that `s4m run` had announced last."""
    return ["start", *re.findall(r"^(teacher|refine|student|evaluate|report): ", said, re.MULTILINE)][-1]


@pytest.mark.slow
def test_run__killed_at_random_moments__ends_as_an_undisturbed_run(
    zygote: Zygote, config: Path, tmp_path: Path
) -> None:
    def run(work: Path, **kill: Any) -> tuple[dict[str, Any], str]:
        log.write_text("")
        answer = zygote.ask(arguments=["run", str(config), "--work-dir", str(work)], log=str(log), **kill)
        said = log.read_text()
        assert "Traceback" not in said, said
        return answer, said

    log, chances, counts = tmp_path / "log.txt", random.Random(0), Counter[str]()
    start = time.monotonic()
    answer, said = run(tmp_path / "quiet")
    assert answer["code"] == 0, said
    longest_s = (time.monotonic() - start) / 3
    expected = results(tmp_path / "quiet")

    kills = chains = 0
    while kills < NUM_KILLS:
        chains += 1
        work, alive = tmp_path / str(chains), True
        while alive:
            kill: dict[str, Any] = {}
            if kills < NUM_KILLS:
                way = list(WAYS)[kills % len(WAYS)]
                kill = {"delay_s": chances.uniform(0, longest_s), **WAYS[way]}
            answer, said = run(work, **kill)
            alive = answer["signaled"]
            if not alive:
                assert answer["code"] == 0, said
                break
            kills += 1
            counts.update([way, stage_of(said)])
            if way == "SIGKILL to the parent":
                again, said = run(work)
                # Named when planning, or by the stage if the orphan takes its lock just then.
                named = "is running" in said or "is held by host" in said
                assert again["code"] == 0 or named, said
                zygote.ask(wait_for=again["session"])
            elif WAYS[way]["signal"] == signal.SIGTERM:
                assert answer["code"] in (143, -15, 0), (answer, said)
            zygote.ask(wait_for=answer["session"])
            assert_loadable(work)
        assert_same(results(work), expected)
        print(f"\n{kills} kills in {chains} runs, all with the weights of an undisturbed one: {dict(counts)}")
