"""Faults that loading processes meet, as they arrive in the main process."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from s4m_pipeline.data.images import LoadingError, loading


class Images(Dataset[int]):
    """Of which none can be read.

    Args:
        fault: raised for each.
    """

    def __init__(self, fault: Exception) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        with loading():
            raise self.fault


@pytest.mark.parametrize(("code", "workers"), [(errno.EIO, 0), (errno.ESTALE, 1)])
def test_loading__disk_fault__is_explained_with_path_and_free_bytes(
    code: int, workers: int, tmp_path: Path
) -> None:
    path = tmp_path / "7.png"
    fault = OSError(code, os.strerror(code), str(path))
    with pytest.raises(LoadingError) as raised:
        next(iter(DataLoader(Images(fault), num_workers=workers)))
    assert str(raised.value).startswith(f"Cannot use {path}: {os.strerror(code)}. ")
    assert f" bytes are free at {tmp_path}." in str(raised.value)


def test_loading__other_system_fault__stays_what_it_is() -> None:
    fault = OSError(errno.ECHILD, os.strerror(errno.ECHILD))
    with pytest.raises(OSError, match="No child processes"):
        next(iter(DataLoader(Images(fault))))
