"""Fingerprints: the plain values that labels depend on, their differences as text, and hashes of files."""

import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from s4m_cache.errors import CacheError, reading

Fingerprint = Mapping[str, str | int | float | bool | None]
"""Everything that labels depend on, by name: `{"teacher": "sha256:...", "score_threshold": 0.7, ...}`."""

Comparison = Callable[[Fingerprint, Fingerprint], list[str]]
"""From the stored and the given fingerprint to one line for each difference, as `explain`."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file as `sha256:` and 16 hexadecimal digits: enough to tell checkpoints apart."""
    return f"sha256:{file_sha256(path)[:16]}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; a process reads a file again only after it changed."""
    with reading(path):
        return _sha256(path, file_version(path))


def file_version(path: Path) -> tuple[int, int, int, int]:
    """Inode, size in bytes, modification time in ns, and 0: equal as long as the file is unchanged.

    For a file modified less than a second ago the last number is unique, because the clock of the file system
    may be too coarse to distinguish a second modification.
    """
    found = path.stat()
    is_settled = time.time_ns() - found.st_mtime_ns > 1_000_000_000
    return found.st_ino, found.st_size, found.st_mtime_ns, 0 if is_settled else time.monotonic_ns()


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, version: tuple[int, int, int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_hash(settings: Any) -> str:
    """The same for plain values in containers; the order of keys does not matter."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def check_plain(fingerprint: Fingerprint) -> None:
    """Refuse values that JSON does not preserve.

    Raises:
        CacheError: naming all keys with such values.
    """
    bad = [
        f"{key} ({type(value).__name__})"
        for key, value in fingerprint.items()
        if not (value is None or isinstance(value, (str, int, float)))
        or (isinstance(value, float) and not math.isfinite(value))
    ]
    if bad:
        raise CacheError(
            f"fingerprint values must be text, finite numbers or booleans; wrong: {', '.join(bad)}"
        )


def explain(stored: Fingerprint, given: Fingerprint) -> list[str]:
    """One line for each key whose values differ, with both values."""
    return [
        f"{key}: stored {_shown(stored, key)}, given {_shown(given, key)}"
        for key in sorted({*stored, *given})
        if _shown(stored, key) != _shown(given, key)
    ]


def explain_list(name: str, stored: Sequence[object], given: Sequence[object]) -> list[str]:
    """Like `explain`, for a list: its length, or the first entry that differs."""
    if len(stored) != len(given):
        return [f"{name}: stored {len(stored)} entries, given {len(given)}"]
    for index, (old, new) in enumerate(zip(stored, given, strict=True)):
        if old != new:
            return [f"{name}: entry {index} is {old!r} as stored, {new!r} as given"]
    return []


def _shown(fingerprint: Fingerprint, key: str) -> str:
    return repr(fingerprint[key]) if key in fingerprint else "nothing"
