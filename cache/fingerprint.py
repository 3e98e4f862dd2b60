"""What made a generation: plain values, their comparison in words, and hashes of files."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.errors import CacheError, reading

Fingerprint = Mapping[str, str | int | float | bool | None]
"""Everything that labels depend on, by name: `{"teacher": "sha256:...", "score_threshold": 0.7, ...}`."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file as `sha256:` and 16 hexadecimal digits: enough to tell checkpoints apart."""
    with reading(path), path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def settings_hash(settings: Any) -> str:
    """As `file_hash`, of plain values in containers: order of keys apart, any change makes it another."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def check_plain(fingerprint: Fingerprint) -> None:
    """Refuse values that JSON would not give back unchanged.

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
            f"fingerprint values must be text, finite numbers or booleans; not so: {', '.join(bad)}"
        )


def explain(stored: Fingerprint, given: Fingerprint) -> list[str]:
    """One line for each key that differs, with both values; none when they agree."""
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
