"""Hashes of files, each read once for as long as it stays the same."""

import hashlib
import os
from pathlib import Path

import pytest

from s4m_cache.fingerprint import file_hash, file_sha256


def test_file_sha256__of_a_file_that_stays_the_same__is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    os.utime(path, (1, 1))
    expected = hashlib.sha256(b"one").hexdigest()
    assert file_sha256(path) == expected
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert file_sha256(path) == expected
    assert file_hash(path) == f"sha256:{expected[:16]}"


def test_file_sha256__of_a_file_written_again_at_once__is_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for text in ("one", "two", "six"):
        path.write_text(text)
        os.utime(path)
        assert file_sha256(path) == hashlib.sha256(text.encode()).hexdigest()
