"""The scripts of docs/cluster.md, run by bash with stand-ins for the cluster's programs and for `s4m`."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from s4m_cache.sharding import ShardSpec
from tests.test_docs.pages import FENCE, ROOT
from tests.test_docs.test_command_lines import parse

SCRIPTS = {
    kind: [block[3] for block in FENCE.finditer((ROOT / "docs/cluster.md").read_text()) if block[2] == kind]
    for kind in ("slurm", "yaml")
}
PROGRAMS = {
    "srun": 'while [ "$1" != s4m ]; do shift; done\nexec "$@"',
    "s4m": 'echo "s4m $*" >> "$FOLDER/called"\nexit $CODE',
    "scontrol": 'echo "scontrol $*" >> "$FOLDER/called"',
}


@pytest.fixture
def run(tmp_path: Path):
    """Runs a script; gives its exit code and the commands that it called."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def call(script: str, code: int = 0, **environment: str) -> tuple[int, list[str]]:
        (tmp_path / "called").write_text("")
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        variables = {"PATH": path, "FOLDER": str(tmp_path), "CODE": str(code), **environment}
        done = subprocess.run(["bash", "-c", script], env=variables, capture_output=True)
        return done.returncode, (tmp_path / "called").read_text().splitlines()

    return call


@pytest.mark.parametrize("script", SCRIPTS["slurm"], ids=["refine", "teacher"])
@pytest.mark.parametrize("code", [0, 1, 143])
def test_slurm_script__ended_by_a_signal__is_requeued_and_only_then(script: str, code: int, run) -> None:
    ids = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    ended, (command, *requeued) = run(script, code, **ids)
    assert ended == code
    parse(command.split()[1:])
    job = "7_3" if "--array" in script else "7"
    assert requeued == ([f"scontrol requeue {job}"] if code == 143 else [])


def test_slurm_array__its_tasks__are_all_shards() -> None:
    first, last = map(int, re.search(r"--array=(\d+)-(\d+)", SCRIPTS["slurm"][0]).groups())  # type: ignore[union-attr]
    about = {"SLURM_ARRAY_TASK_MIN": f"{first}", "SLURM_ARRAY_TASK_COUNT": f"{last - first + 1}"}
    shards = [
        ShardSpec.from_environment({**about, "SLURM_ARRAY_TASK_ID": f"{task}"})
        for task in range(first, last + 1)
    ]
    assert shards == [ShardSpec(index, len(shards)) for index in range(1, len(shards) + 1)]


def test_kubernetes_job__its_pods__label_each_shard_once(run) -> None:
    (job,) = (yaml.safe_load(text) for text in SCRIPTS["yaml"])
    assert (job["kind"], job["spec"]["completionMode"]) == ("Job", "Indexed")
    count = job["spec"]["completions"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    shell, flag, script = container["command"]
    assert (shell, flag) == ("bash", "-c")
    given = []
    for index in range(count):
        code, (command,) = run(script, JOB_COMPLETION_INDEX=str(index))
        assert code == 0
        given.append(parse(command.split()[1:])["shard"])
    assert given == [f"{index}/{count}" for index in range(1, count + 1)]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
