"""What launchers ask of a cluster, and how they refuse."""

import os
from pathlib import Path

import pytest

from s4m_pipeline.core import launchers
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.launchers import LAUNCHERS, Shards, run_local

SBATCH = '#!/bin/sh\ncp "$1" "$(dirname "$0")/submitted"\necho "invalid partition" >&2\nexit 1\n'


def shards(folder: Path, workers: int = 2) -> Shards:
    return Shards(["refine", "mine.py"], workers, cpus=3, folder=folder / "jobs")


def test_slurm__refused_by_sbatch__says_so_and_had_asked_for_a_throttled_array_that_is_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text(SBATCH)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match=r"invalid partition(.|\n)*SBATCH_PARTITION"):
        LAUNCHERS["slurm"](shards(tmp_path))
    lines = (tmp_path / "submitted").read_text().splitlines()
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert options >= {
        "array=0-7%2",
        "requeue",
        "signal=USR2@90",
        "gpus-per-node=1",
        "cpus-per-task=3",
        "time=240",
    }


def test_slurm__shards_that_fail__name_their_files_and_give_their_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    submitit = pytest.importorskip("submitit")
    executor = submitit.AutoExecutor
    monkeypatch.setattr(
        submitit, "AutoExecutor", lambda cluster, **options: executor(cluster="local", **options)
    )
    monkeypatch.setattr(launchers.shutil, "which", lambda name: name)
    wrong = shards(tmp_path, workers=1)._replace(arguments=["refine", "mine.py", "--nonsense"])
    assert LAUNCHERS["slurm"](wrong) == 2
    said = capfd.readouterr().err
    assert said.count(" ended with 2: ") == launchers.SHARDS_PER_WORKER
    assert "No such option" in Path(said.rsplit(" ended with 2: ")[1].split()[0]).read_text()


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_cluster__package_is_missing__says_how_to_install_it(
    name: launchers.LauncherName, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda asked: None)
    with pytest.raises(UserError, match=rf"package {package}(.|\n)*s4m-pipeline\[{name}\]"):
        LAUNCHERS[name](shards(tmp_path))


def test_slurm__on_a_machine_without_it__is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no sbatch on the PATH"):
        LAUNCHERS["slurm"](shards(tmp_path))


def test_local__more_workers_than_gpus__is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "visible_gpus", lambda: ["0", "1"])
    with pytest.raises(UserError, match="--workers 3: this machine has 2 visible GPUs"):
        run_local(shards(tmp_path, workers=3))


@pytest.mark.parametrize(
    ("gpus", "expected"), [([], ["", ""]), (["4", "6", "7"], ["4", "6"])], ids=["CPU", "GPUs"]
)
def test_local__workers__are_one_process_each_with_a_gpu_of_its_own(
    gpus: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(launchers, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(launchers, "run_shards", lambda *given: asked.append(given) or 0)
    assert run_local(shards(tmp_path)) == 0
    assert asked == [(["refine", "mine.py"], expected)]
