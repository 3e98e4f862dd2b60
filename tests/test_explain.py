"""Faults that torch, mmengine or the system report, as a user reads them."""

import errno
import os
import signal
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from s4m_pipeline.core.explain import explain
from s4m_pipeline.experiment.run_record import RunRecord
from s4m_pipeline.models.registry import register_all


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EACCES])
def test_explain__disk_fault__names_path_fault_and_free_bytes(tmp_path: Path, code: int) -> None:
    path = tmp_path / "absent/metrics.jsonl"
    said = explain(OSError(code, os.strerror(code), str(path)))
    assert said is not None
    assert said.startswith(f"Cannot use {path}: {os.strerror(code)}. ")
    assert f" bytes are free at {tmp_path}." in said
    assert "repeat the command" in said


def test_explain__disk_fault_without_a_name__is_explained_all_the_same() -> None:
    assert "a file of this run" in (explain(OSError(errno.ENOSPC, "No space left on device")) or "")


def test_explain__work_dir_that_is_a_file__names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as raised:
        RunRecord.open(tmp_path / "file/teacher", "pretrain-teacher", {}, {}, overwrite=False)
    assert f"Cannot use {tmp_path / 'file/teacher'}: Not a directory" in (explain(raised.value) or "")


class KilledReader(Dataset[int]):
    """As if the kernel had run out of memory."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_explain__killed_reading_process__names_settings_and_checks() -> None:
    with pytest.raises(RuntimeError) as raised:
        next(iter(DataLoader(KilledReader(), num_workers=1)))
    said = explain(raised.value) or ""
    assert said.startswith("A process that reads images was ended from outside: DataLoader worker (pid")
    assert "refine.workers=N" in said
    assert "`s4m data check`" in said


class FailingReader(KilledReader):
    """As if there were a bug in a transform."""

    def __getitem__(self, index: int) -> int:
        raise RuntimeError("shapes differ")


def test_explain__error_of_a_reading_process__stays_a_bug() -> None:
    with pytest.raises(RuntimeError, match="in DataLoader worker process 0") as raised:
        next(iter(DataLoader(FailingReader(), num_workers=1)))
    assert explain(raised.value) is None


def test_explain__device_memory__names_settings() -> None:
    said = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nsee docs")) or ""
    assert said.startswith("Out of device memory: CUDA out of memory. Tried to allocate 2 GiB.\n")
    assert "student.unlabeled_batch_size=N" in said


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"type": "RandomFlop"}, "RandomFlop is not in the mmdet::transform registry"),
        ({"type": "RandomFlip", "prb": 0.5}, "unexpected keyword argument 'prb'"),
        ({"prob": 0.5}, 'must contain the key "type"'),
    ],
    ids=["name", "keyword", "no type"],
)
def test_explain__config_that_cannot_be_built__names_what(settings: dict[str, object], named: str) -> None:
    from mmdet.registry import TRANSFORMS

    register_all()
    with pytest.raises((KeyError, TypeError)) as raised:
        TRANSFORMS.build(settings)
    said = explain(raised.value) or ""
    assert named in said
    assert "Fix the config" in said


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("x"), TypeError("x"), KeyError("x"), RuntimeError("x"), FileNotFoundError(2, "x")],
)
def test_explain__anything_else__stays_a_bug(error: Exception) -> None:
    assert explain(error) is None
