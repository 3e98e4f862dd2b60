"""Files with one JSON object per line, of which a killed process may have left the last one unfinished."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from s4m_cache.atomic import write_text


def read_records(path: Path, key: str) -> list[dict[str, Any]]:
    """The complete records of a .jsonl file that have the integer `key`; none where there is no file."""
    records = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get(key), int):
            records.append(record)
    return records


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace the file atomically."""
    write_text(path, "".join(f"{json.dumps(record)}\n" for record in records))
