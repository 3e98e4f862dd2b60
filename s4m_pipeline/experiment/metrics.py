"""metrics.jsonl of a training: losses every few iterations, and each validation."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s4m_pipeline.core.paths import METRICS
from s4m_pipeline.experiment.records import read_records, write_records


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
