"""The table at the end: AP of every row, mean and standard deviation over seeds, beside the paper's."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s4m_cache.atomic import write_text
from s4m_pipeline.apps.ablation.experiments import Trial
from s4m_pipeline.apps.ablation.tables import HIGHEST, LOWEST, Network, Row, Table
from s4m_pipeline.core import console
from s4m_pipeline.evaluation.intervals import Interval, draw_weights, interval_of
from s4m_pipeline.evaluation.matches import Matches


def show_table(path: Path, table: Table, trials: Sequence[Trial], bounds: Sequence[Trial]) -> None:
    """Print a table and write it as Markdown; folder and AP by row and seed go into a JSON file beside it.

    Args:
        bounds: of `LOWEST` and `HIGHEST` with the same seeds. Where they are evaluated, each row gets its
            share of the headroom between them; they need not be in the table.
    """
    rows = list(dict.fromkeys(trial.row for trial in trials))
    columns = {"": [row.title for row in rows]}
    folders = {f"{trial.row.name}-{trial.seed}": str(trial.folders[table.network]) for trial in trials}
    record: dict[str, object] = {"folder": folders}
    networks: list[Network] = ["student", "teacher"] if table.network == "student" else ["teacher"]
    for network in networks:
        by_row = {row.name: [trial.ap(network) for trial in trials if trial.row == row] for row in rows}
        ap = np.array(list(by_row.values()), np.float64)  # (rows, seeds); NaN: not finished
        columns[f"{network} AP"] = [_mean(values) for values in ap]
        if network == table.network:
            matches = [_matches(network, _rows(trials, row)) for row in rows]
            columns[f"{network} - {rows[0].name} [95 %]"] = [
                "-",
                *(_difference(of_row, matches[0]) for of_row in matches[1:]),
            ]
        record[network] = by_row
    title = f"{table.title}: mask AP in percent on data.{trials[0].split}"
    if (room := _headroom(bounds)) is not None:
        title += f"; headroom {room.text(sign=True)}"
        columns["share of it, % [95 %]"] = [_share(_rows(trials, row), bounds) for row in rows]
        record["headroom"] = [room.estimate, room.low, room.high]
    merged = [[trial.merged(table.network) for trial in _rows(trials, row)] for row in rows]
    merged_means = [_mean(np.array(values, np.float64)) for values in merged]
    columns |= {"merged objects, %": merged_means} if set(merged_means) != {"-"} else {}
    for network in networks:
        paper = [str(getattr(row, network) or "-") for row in rows]
        columns |= {f"paper, {network}": paper} if set(paper) != {"-"} else {}
    if best := _best(table, trials):
        scores = [trial.ap(network) for trial, network in best]
        names = [f"{trial.row.name}, {network}" for trial, network in best]
        record["best"] = {"AP": scores, "network": names}
        found = [trial.matches(network) for trial, network in best]
        last = ["the best by validation (`best.safetensors`)", _mean(np.array(scores, np.float64))]
        last += [_difference(found, matches[0])]  # the first three columns
        last += ["-"] * (len(columns) - len(last))
        for cell, column in zip(last, columns.values(), strict=True):
            column.append(cell)
    cells = list(zip(*columns.values(), strict=True))
    console.print_table(title, list(columns), cells)
    console.result.print(str(path))
    write_text(path, f"# {title}\n\n{console.markdown_table(list(columns), cells)}")
    write_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")


def _best(table: Table, trials: Sequence[Trial]) -> list[tuple[Trial, Network]]:
    """Whose weights are best on the validation images, by seed; empty unless all of them are trained."""
    ours, controls = [trial for trial in trials if trial.row.name == table.best_of], _rows(trials, LOWEST)
    if not ours or not controls or None in [trial.ap("student") for trial in (*ours, *controls)]:
        return []
    best: list[tuple[Trial, Network]] = []
    for trial, control in zip(ours, controls, strict=True):
        compared: list[tuple[Trial, Network]]  # of equally good ones the first, as in best.safetensors
        compared = [(trial, "teacher"), (trial, "student"), (control, "student")]
        best.append(max(compared, key=lambda pair: pair[0].validation_ap(pair[1])))
    return best


def _difference(row: Sequence[Matches | None], base: Sequence[Matches | None]) -> str:
    """Mean difference in AP of two rows with its 95 % interval: a bootstrap over images and seeds, paired."""
    found = _scores(row, base)
    return "-" if found is None else interval_of(found[0] - found[1]).text(sign=True)


def _headroom(bounds: Sequence[Trial]) -> Interval | None:
    """AP of a student with true labels minus that of one without unlabeled images."""
    found = _scores(_matches("student", _rows(bounds, HIGHEST)), _matches("student", _rows(bounds, LOWEST)))
    return None if found is None else interval_of(found[0] - found[1])


def _share(trials: Sequence[Trial], bounds: Sequence[Trial]) -> str:
    """Percent of the headroom that a row gained, where there is any."""
    compared = (trials, _rows(bounds, LOWEST), _rows(bounds, HIGHEST))
    found = _scores(*(_matches("student", row) for row in compared))
    if found is None or not interval_of(found[2] - found[1]).above_zero:
        return "-"
    row, lowest, highest = found
    with np.errstate(divide="ignore", invalid="ignore"):
        return interval_of(100 * (row - lowest) / (highest - lowest)).text()


def _rows(trials: Sequence[Trial], row: Row) -> list[Trial]:
    return [trial for trial in trials if trial.row == row]


def _matches(network: Network, row: Sequence[Trial]) -> list[Matches | None]:
    return [trial.matches(network) for trial in row]


def _scores(*rows: Sequence[Matches | None]) -> list[NDArray[np.float64]] | None:
    """Mean AP of each row over the seeds that all of them have, in the same draws (1 + B,); else None."""
    complete = [list(filter(None, of_seed)) for of_seed in zip(*rows, strict=True) if all(of_seed)]
    if not complete:
        return None
    weights = draw_weights(len(complete[0][0].image_ids))
    return [
        mean_of_seeds(np.array([matches.average_precision(weights) for matches in of_row]))
        for of_row in zip(*complete, strict=True)
    ]


def mean_of_seeds(scores: np.ndarray) -> np.ndarray:
    """Scores (S, 1 + B) of S seeds to (1 + B,): the mean of all, then of S seeds drawn with replacement."""
    seeds, draws = scores.shape
    chosen = np.random.default_rng(0).integers(seeds, size=(seeds, draws))
    chosen[:, 0] = np.arange(seeds)
    return np.take_along_axis(scores, chosen, axis=0).mean(axis=0)


def _mean(values: np.ndarray) -> str:
    """Mean ± standard deviation (n - 1), and how many values there are where some are missing."""
    found = values[~np.isnan(values)]
    if not len(found):
        return "-"
    text = format(found.mean(), ".1f") + (f" ± {found.std(ddof=1):.1f}" if len(found) > 1 else "")
    return text if len(found) == len(values) else f"{text} ({len(found)} of {len(values)})"
