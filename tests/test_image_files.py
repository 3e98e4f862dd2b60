"""A replaced image is noticed, at the cost of a stat for each file that was not touched."""

import os
import shutil
from pathlib import Path

import pytest

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.experiment import image_files
from s4m_pipeline.experiment.image_files import image_changes, record_images, recorded_images
from s4m_pipeline.experiment.run_record import RunRecord


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "photos" / name for name in ("a.png", "b.png", "c.png")]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(path.name.encode())
        os.utime(path, (1, 1))
    return paths


def test_image_changes__other_content_of_the_same_size__is_named(tmp_path: Path, paths: list[Path]) -> None:
    assert image_changes(tmp_path) == []
    record_images(tmp_path, [*paths, tmp_path / "missing.png"])
    assert image_changes(tmp_path) == []
    paths[1].write_bytes(b"x.png")
    os.utime(paths[2], (2, 2))  # copied again: the same content
    assert image_changes(tmp_path) == [f"image changed: {paths[1]}"]
    shutil.rmtree(paths[0].parent)  # moved: what the files hold is not known
    assert image_changes(tmp_path) == []


def test_record__what_was_not_touched__is_not_read_again(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    record_images(tmp_path, paths)
    known = recorded_images(tmp_path)
    paths[0].write_bytes(b"longer than before")
    read: list[str] = []
    usual = image_files.file_hash
    monkeypatch.setattr(image_files, "file_hash", lambda path: read.append(path.name) or usual(path))
    record_images(tmp_path, paths, known)
    assert image_changes(tmp_path) == []
    assert read == ["a.png"]


def test_image_changes__damaged_record__counts_as_none(tmp_path: Path, paths: list[Path]) -> None:
    record_images(tmp_path, paths)
    (tmp_path / "image_files.json").write_bytes(b"{")
    assert image_changes(tmp_path) == []


def test_training__resumed_after_an_image_was_replaced__is_refused(tmp_path: Path, paths: list[Path]) -> None:
    folder = tmp_path / "teacher"
    record = RunRecord.open(folder, "pretrain-teacher", {}, {}, images=paths, overwrite=False)
    record._close("interrupted")
    assert record.lock is not None
    record.lock.release()
    (folder / "iter_2.pth").touch()
    paths[0].write_bytes(b"other")
    with pytest.raises(UserError, match=r"image changed: .*a\.png"):
        RunRecord.open(folder, "pretrain-teacher", {}, {}, images=paths, overwrite=False)
    record = RunRecord.open(folder, "pretrain-teacher", {}, {}, images=paths, overwrite=True)
    assert image_changes(folder) == []
