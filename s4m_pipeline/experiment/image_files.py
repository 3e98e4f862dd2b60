"""What the image files of a training or of pseudo-labels held when these began, to notice replaced images."""

import os
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from s4m_cache import sealed
from s4m_cache.errors import DamagedError
from s4m_cache.fingerprint import file_hash
from s4m_cache.storage import is_remote
from s4m_pipeline.core.locations import location, remote_hash
from s4m_pipeline.core.paths import IMAGE_FILES

_RECORDS = IMAGE_FILES.replace(".json", "*.json")
Entry = list[int | str]
"""Size in bytes, modification time in ns, and hash of the content; of an object store its own hash."""


def record_images(
    folder: Path,
    paths: Iterable[Path],
    known: Mapping[str, Entry] | None = None,
    shard: int | None = None,
) -> None:
    """Record the content of image files in `folder`; missing ones are left out.

    Args:
        paths: absolute.
        known: an earlier record; files of the same size and modification time are not read again.
        shard: number of a generation's shard, whose record is a file of its own.
    """
    known = known or {}
    versions = {str(path): version for path in paths if (version := _version(path))}
    new = [path for path, version in versions.items() if known.get(path, [])[:2] != version]
    hashes = {path: known[path][2] for path in versions.keys() - set(new)} | _hashes(new)
    entries = {path: [*versions[path], hashes[path]] for path in versions}
    sealed.write(folder / _RECORDS.replace("*", "" if shard is None else f"-{shard:04d}"), {"files": entries})


def recorded_images(folder: Path) -> dict[str, Entry]:
    """The records in `folder` by path; without those that are damaged."""
    files: dict[str, Entry] = {}
    for path in sorted(folder.glob(_RECORDS), reverse=True):  # those of shards after one of all
        with suppress(FileNotFoundError, DamagedError):
            files |= sealed.read(path)["files"]
    return files


def image_changes(folder: Path, among: Container[str] | None = None) -> list[str]:
    """`image changed: PATH` for each recorded file with another content now; not for files that are gone.

    Only files of another size or modification time are read.

    Args:
        among: only these paths count; None: all.
    """
    recorded = {
        path: entry for path, entry in recorded_images(folder).items() if among is None or path in among
    }
    touched = [path for path, entry in recorded.items() if _version(location(path)) not in (None, entry[:2])]
    hashes = _hashes(touched)
    return [f"image changed: {path}" for path in touched if hashes[path] != recorded[path][2]]


def _version(path: Path) -> Entry | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _hashes(paths: list[str]) -> dict[str, str]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing and reading release the interpreter lock
        return dict(zip(paths, pool.map(_hash, map(location, paths)), strict=True))


def _hash(path: Path) -> str:
    return remote_hash(path) if is_remote(path) else file_hash(path)
