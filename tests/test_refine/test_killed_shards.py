"""Shards as real processes, killed and started again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from s4m_cache.generation import Generation
from s4m_cache.generations import collect_garbage
from test_refine.conftest import assert_same_labels

TESTS = Path(__file__).parents[1]
MOMENTS = {
    "validation images measured": ["held-out-0001.json", 1],
    "masks chosen": ["masks.json", 1],
    "first part stored": ["shard-0001.json", 1],
    "all but the unreadable image stored": ["shard-0001.json", 4],
    "unreadable image stored": ["shard-0001.json", 5],
    "published": ["PUBLISHED.json", 1],
}
"""Between these and the note that tells of them: a file's name, and which of its renames never happens."""


def serve(requests: list[dict]) -> tuple[list[list[int]], str]:
    """Answers of `shards_process` to these requests, and what its children said."""
    root = TESTS.parent
    folders = (TESTS, root, root / "cache", root / "stages")
    done = subprocess.run(
        [sys.executable, "-m", "test_refine.shards_process"],
        input="".join(json.dumps(request) + "\n" for request in requests),
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": ":".join(map(str, folders)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")], done.stderr


def test_refine__four_shards_two_killed_and_restarted__give_the_labels_of_one_uninterrupted_run(
    experiment, tmp_path
):
    def arguments(name):
        return {
            "config_path": str(experiment / "refine_me.py"),
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
    answers, said = serve(requests)
    assert answers == [[-9, -9, 0, 0], [0, 0], [0]], said
    assert said.count("1 done, 1 to do") == 2  # each goes on from its first part
    published, quiet = (Generation(tmp_path / name / "cache", 1).published() for name in ("killed", "quiet"))
    assert published is not None
    assert published["quality"] == quiet["quality"]
    assert_same_labels(tmp_path / "killed/cache", tmp_path / "quiet/cache")


def test_refine__killed_before_any_of_its_notes__ends_as_an_uninterrupted_run(
    experiment, student_config, tmp_path
):
    data = tmp_path / "data"
    shutil.copytree(experiment / "data", data)
    (data / "train/train_00003.png").write_bytes(b"no image")
    overrides = ["refine.prompt=none", "refine.ground_truth=train.json", "refine.max_unreadable=1"]

    def request(name, **kill):
        arguments = {
            "config_path": str(student_config),
            "teacher": str(experiment / "weights.safetensors"),
            "work_dir": str(tmp_path / name),
            "overrides": [*overrides, f"data.root={data}"],
        }
        return {"arguments": arguments, "shards": ["1/1"], **kill}

    requests = [request("quiet")]
    for name, before in MOMENTS.items():
        requests += [request(name, kill=["1/1"], before=before), request(name)]
    answers, said = serve(requests)
    assert answers == [[0]] + [[-9], [0]] * len(MOMENTS), said
    quiet = Generation(tmp_path / "quiet/cache", 1).published()
    assert quiet["quality"].keys() >= {"held_out", "instances measured"}
    assert quiet["statistics"]["unreadable images"] == 1
    for name, (file, _) in MOMENTS.items():
        generation = Generation(tmp_path / name / "cache", 1)
        published = generation.published()
        assert published["quality"] == quiet["quality"], name
        assert published["statistics"]["unreadable images"] == 1, name
        assert_same_labels(tmp_path / name / "cache", tmp_path / "quiet/cache")
        if file == "masks.json":  # which all shards may write at the same time
            (leftover,) = generation.leftovers()
            assert collect_garbage(generation.root) == [leftover]
        assert list(generation.root.rglob(".tmp-*")) == [], name
