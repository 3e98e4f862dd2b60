"""A whole refine on two pretended GPUs, in a process each."""

import os
import subprocess
import sys
from pathlib import Path

from s4m_cache.generation import Generation
from test_refine.conftest import assert_same_labels

REPOSITORY = Path(__file__).parents[2]


def test_refine__two_gpus__labels_as_in_one_process_and_publishes(experiment, refine, tmp_path):
    pretend = "from s4m_pipeline.core import processes; processes.visible_gpus = lambda: ['0', '1']; "
    command = [sys.executable, "-c", pretend + "from s4m_stages.cli import main; main()", "refine"]
    command += [str(experiment / "refine_me.py"), "--work-dir", str(tmp_path / "two")]
    command += ["--teacher", str(experiment / "weights.safetensors"), "--set", "refine.prompt=none"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
    assert Generation(tmp_path / "two/cache", 1).spec.num_shards == 2
    assert Generation(tmp_path / "two/cache", 1).published() is not None
    refine("one", "refine.prompt=none")
    assert_same_labels(tmp_path / "two/cache", tmp_path / "one/cache")
