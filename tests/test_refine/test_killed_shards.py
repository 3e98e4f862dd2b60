"""Four shards as real processes at the same time, two of them killed and started again."""

import json
import os
import subprocess
import sys
from pathlib import Path

from cache.generation import Generation
from test_refine.conftest import assert_same_labels

TESTS = Path(__file__).parents[1]


def test_refine__four_shards_two_killed_and_restarted__give_the_labels_of_one_quiet_run(experiment, tmp_path):
    def arguments(name):
        return {
            "config": str(experiment / "refine_me.py"),
            "teacher": str(experiment / "weights.safetensors"),
            "work_dir": str(tmp_path / name),
            "overrides": ["cache.part_images=1", "refine.batch_size=1", "refine.ground_truth=train.json"],
        }

    killed = ["1/4", "2/4"]  # the two that have two images
    requests = [
        {"arguments": arguments("killed"), "shards": [*killed, "3/4", "4/4"], "kill": killed},
        {"arguments": arguments("killed"), "shards": killed},
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
    assert answers == [[-9, -9, 0, 0], [0, 0], [0]], done.stderr
    assert done.stderr.count("1 done, 1 to do") == 2  # each goes on from its first part
    published, quiet = (Generation(tmp_path / name / "cache", 1).published() for name in ("killed", "quiet"))
    assert published is not None
    assert published["quality"] == quiet["quality"]
    assert_same_labels(tmp_path / "killed/cache", tmp_path / "quiet/cache")
