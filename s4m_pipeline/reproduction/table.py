"""What a reproduction brought, beside the paper: read from the records of its stages."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.atomic import write_text
from s4m_pipeline.data.split_files import RECORD
from s4m_pipeline.evaluation.results import kept_result
from s4m_pipeline.layout import GENERATIONS, RUN, STUDENT, TEACHER
from s4m_pipeline.report.provenance import duration_s, duration_text
from s4m_pipeline.reproduction.steps import Reproduction

TABLE = "reproduction.md"
NO_FIGURE = "-"


@dataclass(frozen=True)
class Comparison:
    """Texts, ready to be printed."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    """AP in percent: what it is of, ours (one column or two), the paper's."""
    facts: dict[str, str]
    """What the figures depend on."""


def compare_with_paper(run: Reproduction) -> Comparison:
    """The figures of a finished reproduction.

    Rows without a figure of ours are those of networks that a reproduction does not train.
    """
    paper = run.benchmark.paper[run.percent]
    by_stage = {
        stage: _figures(run, kept_result(run.work_dir, "val", stage, weights) or {})
        for stage, weights in run.weights.items()
    }
    none = [NO_FIGURE] * len(_our_columns(run))
    rows = [
        ["teacher from labels alone", *none, f"{paper.supervised_teacher:.1f}"],
        ["teacher with structural distillation", *by_stage[TEACHER], f"{paper.teacher:.1f}"],
        ["student", *by_stage[STUDENT], f"{paper.student:.1f}"],
    ]
    what = "the chain on a drawn miniature: figures without meaning" if run.smoke else "mask AP in percent"
    return Comparison(
        title=f"{run.benchmark.title}, {run.percent} % labelled: {what}",
        columns=["", *_our_columns(run), f"paper, {run.benchmark.metric}"],
        rows=rows,
        facts=dict(_facts(run)),
    )


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write it as Markdown; returns the file."""
    facts = [[name, text] for name, text in comparison.facts.items()]
    lines = [f"# {comparison.title}", "", *_markdown(comparison.columns, comparison.rows), ""]
    lines += _markdown(["of this run", ""], facts)
    path = folder / TABLE
    write_text(path, "\n".join(lines) + "\n")
    return path


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    table = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(row) + " |" for row in table]


def _our_columns(run: Reproduction) -> list[str]:
    own = [f"ours, {run.benchmark.metric}"]
    return own if run.benchmark.name == "coco" else [*own, "ours, COCO AP"]


def _figures(run: Reproduction, result: Mapping[str, Any]) -> list[str]:
    values = [result.get("AP")]
    if run.benchmark.name == "cityscapes":
        values.insert(0, result.get("cityscapes", {}).get("AP"))
    return [NO_FIGURE if value is None else f"{value:.1f}" for value in values]


def _facts(run: Reproduction) -> Iterator[tuple[str, str]]:
    yield "split", _split(_read(run.split / RECORD))
    records = {stage: _read(weights.parent / RUN) for stage, weights in run.weights.items()}
    trainings = {stage: record["config"][stage] for stage, record in records.items()}
    seeds = {**trainings, "refine": records[STUDENT]["config"]["refine"]}
    yield "seeds", ", ".join(f"{name} {settings['seed']}" for name, settings in seeds.items())
    teacher, student = trainings[TEACHER], trainings[STUDENT]
    yield "schedule of the teacher", f"{teacher['iterations']:,} steps of {teacher['batch_size']}"
    yield (
        "schedule of the student",
        f"{student['iterations']:,} steps of {student['batch_size']} + {student['unlabeled_batch_size']}, "
        f"burn-in {student['burn_in']:,}, new labels every {student['refresh_every'] or 0:,}",
    )
    yield "SAM 2", str(records[STUDENT]["config"]["sam"]["model"])
    if run.overrides:
        yield "changed settings", ", ".join(run.overrides)
    yield "hardware", f"{run.devices} x {_joined(records, 'device')}, host {_joined(records, 'host')}"
    for stage, record in records.items():
        yield f"time of the {stage}", _duration(duration_s(record))
    yield "time of the first pseudo-labels, all processes", _duration(_labelling_s(run.work_dir))
    git = records[STUDENT].get("git") or {}
    yield "commit", f"{git.get('commit', 'unknown')}{' with changes' if git.get('changed') else ''}"


def _split(record: Mapping[str, Any]) -> str:
    method = record["method"]
    how = {
        "percent": f"{method.get('percent', 0):g} % chosen with seed {method.get('seed')}",
        "list": f"list {method.get('list')}",
    }.get(method["name"], method["name"])
    return f"{how}: {record['labeled']['images']:,} labelled, {record['unlabeled']['images']:,} unlabelled"


def _labelling_s(experiment: Path) -> float | None:
    """Seconds that refine took for the labels that the student began with."""
    path = experiment / STUDENT / GENERATIONS
    first = json.loads(path.read_text().partition("\n")[0]) if path.is_file() else {}
    statistics = first.get("statistics", {})
    seconds = [value for name, value in statistics.items() if name.startswith("seconds: ")]
    return sum(seconds) if seconds else None


def _duration(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{duration_text(seconds)} ({seconds / 3600:.2f} h)"


def _joined(records: Mapping[str, Mapping[str, Any]], name: str) -> str:
    sessions = [session for record in records.values() for session in record["sessions"]]
    return ", ".join(dict.fromkeys(str(session[name]) for session in sessions if session.get(name)))


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content
