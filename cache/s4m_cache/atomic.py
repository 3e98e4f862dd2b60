"""Files and folders that are either complete or absent: temporary name, sync, rename, sync of the parent."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp-"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`.

    On any exception the temporary file is removed and `path` is as it was.

    Raises:
        OSError: as the file system reports it (no space, read-only, missing folder).
    """
    temporary = _temporary(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`; on success its whole tree is synced and it becomes `path`.

    On any exception the temporary folder is removed.

    Raises:
        OSError: as the file system reports it; also when `path` is already there and not empty.
    """
    temporary = _temporary(path)
    try:
        temporary.mkdir()
        yield temporary
        for folder, _, files in os.walk(temporary, topdown=False):
            for name in files:
                sync(Path(folder, name))
            sync(Path(folder))
        temporary.rename(path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_folder(path: Path) -> None:
    """Remove a folder; a crash leaves it complete or under a temporary name, never half empty."""
    temporary = _temporary(path)
    path.rename(temporary)
    sync(path.parent)
    shutil.rmtree(temporary)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`; a reader sees the old content or the new, never a part, also after a crash."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically like `write_bytes`."""
    write_bytes(path, text.encode())


def discard_leftovers(path: Path) -> None:
    """Remove temporary files that killed writers of `path` left; the caller's lock keeps out living ones."""
    for leftover in path.parent.glob(f"{TEMPORARY}{path.name}-*"):
        leftover.unlink()


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries (creations, renames, removals), to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    name = path.name.removeprefix(TEMPORARY)
    return path.with_name(f"{TEMPORARY}{name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
