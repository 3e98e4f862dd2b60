"""The records of metrics.jsonl, which `MetricsHook` writes: losses every few steps, and each validation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, each with its `step`; see `read_records`."""
    return read_records(path, "step")


def read_records(path: Path, key: str) -> list[dict[str, Any]]:
    """The records of a .jsonl file that have the integer `key`; none where there is no file.

    A killed run may have left half a line, which is passed over.
    """
    records = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get(key), int):
            records.append(record)
    return records


def last_validation(metrics: Path) -> dict[str, Any]:
    """The latest validation recorded in a metrics.jsonl: `step`, `AP`, `AP50`, `AP75`; empty without one."""
    found = [record for record in read_metrics(metrics) if "val_AP" in record]
    if not found:
        return {}
    return {key.removeprefix("val_"): value for key, value in found[-1].items() if key != "seconds"}


def mean_over_steps(metrics: Path, names: Sequence[str]) -> dict[str, float]:
    """Means of values of a metrics.jsonl over the whole training, without names that do not occur."""
    records = read_metrics(metrics)
    values = {name: [record[name] for record in records if name in record] for name in names}
    return {name: round(sum(found) / len(found), 4) for name, found in values.items() if found}
