"""The curves of a training, from its metrics: losses and validation AP over the steps."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_POINTS = 400
"""Longer curves are thinned: no screen shows more, and a page of 368,750 steps stays small."""

_AUXILIARY = re.compile(r"(^|[._])d\d+\.")
"""Losses of the earlier decoder layers (deep supervision); `loss` holds them, too."""


@dataclass(frozen=True)
class Series:
    """One line of a chart: points (step, value), by step, all finite."""

    name: str
    points: list[tuple[int, float]]


@dataclass(frozen=True)
class Chart:
    """Lines that share their axes."""

    title: str
    unit: str
    series: list[Series]


def training_charts(records: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Losses (the total first) and validation AP; a chart without a point is left out."""
    names = list(dict.fromkeys(name for record in records for name in record))
    losses = [name for name in names if "loss" in name and not _AUXILIARY.search(name)]
    losses.sort(key=lambda name: name != "loss")  # stable: the others as they were recorded
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
    kept = [Chart(c.title, c.unit, [line for line in c.series if line.points]) for c in charts]
    return [chart for chart in kept if chart.series]


def _curve(records: Iterable[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    points = [(record["step"], float(record[name])) for record in records if _is_finite(record.get(name))]
    return thinned(points)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def thinned(points: Sequence[tuple[int, float]], limit: int = MAX_POINTS) -> list[tuple[int, float]]:
    """At most `limit` of the points, evenly spread, the first and the last among them."""
    if len(points) <= limit:
        return list(points)
    places = [round(i * (len(points) - 1) / (limit - 1)) for i in range(limit)]
    return [points[place] for place in places]
