"""Two shards as real processes, killed and started again."""

import json
import os
import subprocess
import sys
from pathlib import Path

from cache.generation import Generation
from test_refine.conftest import assert_same_labels

TESTS = Path(__file__).parents[1]


def test_refine__two_shards_killed_and_restarted_give_the_labels_of_one_quiet_run(experiment, tmp_path):
    def arguments(name):
        return {
            "config": str(experiment / "refine_me.py"),
            "teacher": str(experiment / "weights.safetensors"),
            "work_dir": str(tmp_path / name),
            "overrides": ["cache.part_images=1", "refine.batch_size=1"],
        }

    shards = ["1/2", "2/2"]
    requests = [
        {"arguments": arguments("killed"), "shards": shards, "parts_before_kill": 1},
        {"arguments": arguments("killed"), "shards": shards},
        {"arguments": arguments("quiet"), "shards": ["1/1"]},
    ]
    done = subprocess.run(
        [sys.executable, "-m", "test_refine.shards_process"],
        input="".join(json.dumps(request) + "\n" for request in requests),
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert answers == [[-9, -9], [0, 0], [0]], done.stderr
    assert "1 done, 2 to do" in done.stderr  # the second time each goes on from its first part
    generation = Generation(tmp_path / "killed/cache", 1)
    assert generation.published() is not None
    assert_same_labels(tmp_path / "killed/cache", tmp_path / "quiet/cache")
