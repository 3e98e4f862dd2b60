"""metrics.jsonl of a training: losses every few iterations, and each validation.

A file of one JSON object per line, of which a killed process may have left the last one unfinished.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from s4m_cache.atomic import write_text
from s4m_pipeline.core.paths import METRICS


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


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a training, each with its `step`; none before the first.

    Args:
        folder: of the training.
    """
    return read_records(folder / METRICS, "step")


def append_metrics(folder: Path, record: Mapping[str, Any]) -> None:
    """Add a record."""
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(record) + "\n")


def drop_metrics_after(folder: Path, step: int) -> None:
    """Keep the records up to the checkpoint that a training resumes from: a kill may leave later ones."""
    kept = [record for record in read_metrics(folder) if record["step"] <= step]
    write_records(folder / METRICS, kept)


def validations(folder: Path) -> list[dict[str, Any]]:
    """The validations of a training so far: `step`, `AP`, `AP50`, `AP75`."""
    return [
        {key.removeprefix("val_"): value for key, value in record.items() if key != "seconds"}
        for record in read_metrics(folder)
        if "val_AP" in record
    ]


def mean_over_steps(folder: Path, names: Sequence[str]) -> dict[str, float]:
    """Means of some values over the whole training, without names that do not occur."""
    records = read_metrics(folder)
    values = {name: [record[name] for record in records if name in record] for name in names}
    return {name: round(sum(found) / len(found), 4) for name, found in values.items() if found}
