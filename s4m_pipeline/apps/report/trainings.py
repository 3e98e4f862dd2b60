"""What the report shows about the trainings: curves of losses and AP, and provenance."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from s4m_pipeline.experiment.run_record import duration_s, duration_text

Run = Mapping[str, Any]

MAX_POINTS = 400
"""Longer curves are thinned: no screen shows more points, and the page stays small."""

_AUXILIARY = re.compile(r"(^|[._])d\d+\.")
"""Losses of the earlier decoder layers (deep supervision), which `loss` includes."""


@dataclass(frozen=True)
class Series:
    """One line of a chart: points (x, value), by x, all finite."""

    name: str
    points: list[tuple[int, float]]


@dataclass(frozen=True)
class Chart:
    """Lines with common axes."""

    title: str
    unit: str
    series: list[Series]
    x: str = "iteration"
    """Name of the other axis."""


def training_charts(records: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Charts of the losses (the total first) and of the validation AP; empty charts are left out."""
    names = list(dict.fromkeys(name for record in records for name in record))
    losses = [name for name in names if "loss" in name and not _AUXILIARY.search(name)]
    losses.sort(key=lambda name: name != "loss")  # stable: the rest in the recorded order
    validation = [name for name in names if name.startswith("val_")]
    charts = [
        Chart(
            "loss",
            "",
            [Series("total" if name == "loss" else name, _curve(records, name)) for name in losses],
        ),
        Chart(
            "validation AP",
            "%",
            [Series(name.removeprefix("val_"), _curve(records, name)) for name in validation],
        ),
    ]
    kept = [replace(c, series=[line for line in c.series if line.points]) for c in charts]
    return [chart for chart in kept if chart.series]


def _curve(records: Iterable[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    points = [(record["step"], float(record[name])) for record in records if _is_finite(record.get(name))]
    return thinned(points)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def thinned(points: Sequence[tuple[int, float]], limit: int = MAX_POINTS) -> list[tuple[int, float]]:
    """At most `limit` points, evenly spread, including the first and the last."""
    if len(points) <= limit:
        return list(points)
    return [points[round(i * (len(points) - 1) / (limit - 1))] for i in range(limit)]


@dataclass(frozen=True)
class Table:
    """Column headings and rows of texts; the first text of a row is its label, a missing value is None."""

    columns: list[str]
    rows: list[list[str | None]]


def provenance(runs: Mapping[str, Run]) -> Table:
    """One column for each stage (`run.json` by stage); empty rows are left out."""
    described = {name: _describe(name, run) for name, run in runs.items()}
    labels = list(dict.fromkeys(label for facts in described.values() for label in facts))
    rows = [[label, *(facts.get(label) for facts in described.values())] for label in labels]
    return Table(list(runs), [row for row in rows if any(row[1:])])


def _describe(stage: str, run: Run) -> dict[str, str | None]:
    sessions: Sequence[Mapping[str, Any]] = run.get("sessions", ())
    options = run.get("config", {}).get(stage, {})
    names = {"iterations": "iterations", "batch_size": "labeled images per batch", "precision": "precision"}
    names |= {"unlabeled_batch_size": "unlabeled images per batch", "ema": "EMA decay", "seed": "seed"}
    return {
        "status": run.get("status"),
        "started": _time_text(sessions[0].get("started")) if sessions else None,
        "ended": _time_text(sessions[-1].get("ended")) if sessions else None,
        "duration": _duration(run),
        "sessions": str(len(sessions)),
        "device": _joined(session.get("device") for session in sessions),
        "host": _joined(session.get("host") for session in sessions),
        **{label: _text(options.get(name)) for name, label in names.items()},
        "initial weights": _text(options.get("init_from")),
        "git commit": _commit(run.get("git")),
        **{f"sha256 of {name}": digest for name, digest in (run.get("data") or {}).items()},
        **(run.get("versions") or {}),
    }


def _duration(run: Run) -> str | None:
    seconds = duration_s(run)
    if seconds is None:
        return None
    open_ends = sum(not session.get("ended") for session in run["sessions"])
    return duration_text(seconds) + (f", without {open_ends} session(s) of unknown end" if open_ends else "")


def _commit(git: Mapping[str, Any] | None) -> str | None:
    if not git:
        return None
    return str(git.get("commit")) + (", with uncommitted changes" if git.get("changed") else "")


def _joined(values: Any) -> str | None:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None)) or None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _time_text(text: str | None) -> str | None:
    return None if text is None else datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z").strip()
