"""What the trials brought, as a table beside the paper's figures."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.atomic import write_text
from s4m_pipeline.ablation.jobs import result_of
from s4m_pipeline.ablation.plan import Setting, Trial
from s4m_pipeline.ablation.tables import Network, Row, Table

NO_FIGURE = "-"


@dataclass(frozen=True)
class RowFigures:
    """AP in percent of a row's trials by seed, those that are finished."""

    row: Row
    by_network: Mapping[Network, Mapping[int, float]]


def collect(trials: Sequence[Trial]) -> list[RowFigures]:
    """The figures of all rows, in the order of the trials."""
    rows = {trial.row.name: trial.row for trial in trials}
    return [
        RowFigures(row, _figures([t for t in trials if t.row.name == name])) for name, row in rows.items()
    ]


def _figures(trials: Sequence[Trial]) -> dict[Network, dict[int, float]]:
    found: dict[Network, dict[int, float]] = {"student": {}, "teacher": {}}
    for trial in trials:
        folders: dict[Network, Path | None] = {"student": trial.student, "teacher": trial.teacher}
        for network, folder in folders.items():
            result = None if folder is None else result_of(trial, folder, network)
            if result is not None and result.get("AP") is not None:
                found[network][trial.seed] = result["AP"]
    return found


def mean_and_spread(values: Sequence[float], expected: int) -> str:
    """Mean ± standard deviation (n - 1); how many there are where some are missing."""
    if not values:
        return NO_FIGURE
    text = f"{statistics.mean(values):.1f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.1f}"
    return text if len(values) == expected else f"{text} ({len(values)} of {expected})"


def as_texts(table: Table, rows: Sequence[RowFigures], seeds: int) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the cells of each row.

    The column of gains is the mean over seeds of the difference to the baseline with the same seed.
    """
    networks: list[Network] = ["student", "teacher"] if table.network == "student" else ["teacher"]
    columns = ["", *(f"{network} AP" for network in networks)]
    cells = [
        [figures.row.title, *(mean_and_spread([*figures.by_network[n].values()], seeds) for n in networks)]
        for figures in rows
    ]
    base = next((figures for figures in rows if figures.row.name == table.baseline), None)
    if base is not None:
        columns.insert(2, f"{table.network} - {base.row.name}")
        for line, figures in zip(cells, rows, strict=True):
            line.insert(2, NO_FIGURE if figures is base else _gain(figures, base, table.network, seeds))
    for network in networks:
        paper = [getattr(figures.row, f"paper_{network}") for figures in rows]
        if any(value is not None for value in paper):
            columns.append(f"paper, {network}")
            for line, value in zip(cells, paper, strict=True):
                line.append(NO_FIGURE if value is None else f"{value:.1f}")
    return columns, cells


def _gain(figures: RowFigures, base: RowFigures, network: Network, seeds: int) -> str:
    ours, theirs = figures.by_network[network], base.by_network[network]
    text = mean_and_spread([ours[seed] - theirs[seed] for seed in ours if seed in theirs], seeds)
    return text if text.startswith(("-", NO_FIGURE)) else f"+{text}"


def write_table(
    setting: Setting, name: str, table: Table, trials: Sequence[Trial], rows: Sequence[RowFigures]
) -> Path:
    """Write the table as `NAME.md` and its figures as `NAME.json` into the ablation's folder."""
    seeds = sorted({trial.seed for trial in trials})
    columns, cells = as_texts(table, rows, len(seeds))
    ruler = ["---", *("---:" for _ in columns[1:])]
    lines = [f"# {table.title}", ""]
    lines += [f"| {' | '.join(line)} |" for line in (columns, ruler, *cells)]
    lines += ["", *(f"- {fact}" for fact in _facts(setting, table, trials, seeds))]
    path = setting.root / f"{name}.md"
    write_text(path, "\n".join(lines) + "\n")
    write_text(path.with_suffix(".json"), json.dumps(_record(setting, name, trials, rows), indent=2) + "\n")
    return path


def _facts(setting: Setting, table: Table, trials: Sequence[Trial], seeds: Sequence[int]) -> list[str]:
    options = trials[0].options
    steps = f"{options.teacher.iterations} steps of the teacher"
    if table.network == "student" and options.student is not None:
        steps += f", {options.student.iterations} of the student"
    changed = f" with {', '.join(setting.overrides)}" if setting.overrides else ""
    return [
        f"Mask AP in percent on data.{trials[0].split} of `{setting.config}`{changed}; {steps}",
        f"Mean ± standard deviation over the seeds {', '.join(map(str, seeds))}",
        f"Paper: {table.paper}",
    ]


def _record(
    setting: Setting, name: str, trials: Sequence[Trial], rows: Sequence[RowFigures]
) -> dict[str, Any]:
    return {
        "table": name,
        "config": str(setting.config),
        "overrides": list(setting.overrides),
        "split": trials[0].split,
        "rows": [
            {
                "name": figures.row.name,
                "settings": list(figures.row.settings),
                "paper": {"student": figures.row.paper_student, "teacher": figures.row.paper_teacher},
                "AP": {
                    network: {str(seed): value for seed, value in by_seed.items()}
                    for network, by_seed in figures.by_network.items()
                },
                "folders": {
                    str(trial.seed): str(trial.result.relative_to(setting.root))
                    for trial in trials
                    if trial.row.name == figures.row.name
                },
            }
            for figures in rows
        ],
    }
