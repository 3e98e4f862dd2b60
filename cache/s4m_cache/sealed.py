"""Small JSON files whose last field is a checksum of all bytes before it."""

import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s4m_cache.errors import REPAIR, DamagedError, reading
from s4m_cache.storage import storage

_TAIL = re.compile(rb',"crc32":"([0-9a-f]{8})"\}\n\Z')
TAIL_BYTES = len(b',"crc32":"00000000"}\n')


def dump(body: dict[str, Any]) -> bytes:
    """Serialize a non-empty dict of JSON values, sealed."""
    head = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()[:-1]
    return head + f',"crc32":"{zlib.crc32(head):08x}"}}\n'.encode()


def write(path: Path, body: dict[str, Any], version: str | None = None) -> None:
    """Write `body` to `path`, sealed and atomically.

    Args:
        path: the file.
        body: JSON values.
        version: of the file that may be replaced (see `storage`); None: any.
    """
    storage(path).write(path, dump(body), version)


@contextmanager
def understood(path: Path, remedy: str = REPAIR) -> Iterator[None]:
    """Turn what fails on the fields of a sealed file, if another program wrote them, into a DamagedError."""
    try:
        yield
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        problem = f"its fields are not those expected ({type(error).__name__}: {error})"
        raise DamagedError(path, problem, remedy=remedy) from error


def read(path: Path, remedy: str = REPAIR) -> dict[str, Any]:
    """Read a file that `write` wrote.

    Args:
        remedy: what to do next if it is damaged, for the message.

    Raises:
        FileNotFoundError: if there is no such file.
        CacheError: if it cannot be read.
        DamagedError: if the checksum does not match.
    """
    with reading(path):
        data = storage(path).read(path)
    tail = _TAIL.search(data)
    if tail is None:
        problem = "no checksum at its end: the file is truncated, empty or of another program"
        raise DamagedError(path, problem, remedy=remedy)
    head = data[:-TAIL_BYTES]
    if zlib.crc32(head) != int(tail[1], 16):
        problem = f"checksum {zlib.crc32(head):08x}, expected {tail[1].decode()}"
        raise DamagedError(path, problem, remedy=remedy)
    body: dict[str, Any] = json.loads(head + b"}")
    return body
