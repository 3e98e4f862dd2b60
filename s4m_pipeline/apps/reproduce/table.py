"""What a reproduction brought, beside the paper: read from the records of its stages."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4m_cache.atomic import write_text
from s4m_cache.fingerprint import file_hash
from s4m_pipeline.apps.reproduce.steps import Reproduction
from s4m_pipeline.config.weight_files import find_weights
from s4m_pipeline.core.console import markdown_table
from s4m_pipeline.core.paths import STUDENT, TEACHER
from s4m_pipeline.data.split_files import RECORD
from s4m_pipeline.experiment.evaluation_file import current_results
from s4m_pipeline.experiment.generation_log import GenerationLog
from s4m_pipeline.experiment.run_record import duration_s, duration_text, read_run

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
    results = current_results(run.work_dir, "val")
    by_stage = {stage: _figures(run, results.get(stage, {})) for stage in run.weights}
    student: float | None = paper.student
    if run.method is not None:
        student = run.benchmark.others.get(run.method, {}).get(run.percent)
    none = [NO_FIGURE] * len(_our_columns(run))
    rows = [
        ["teacher from labels alone", *none, f"{paper.supervised_teacher:.1f}"],
        ["teacher with structural distillation", *by_stage[TEACHER], f"{paper.teacher:.1f}"],
        [run.method or "student", *by_stage[STUDENT], NO_FIGURE if student is None else f"{student:.1f}"],
    ]
    what = (
        "the chain on a drawn miniature: its figures are meaningless" if run.smoke else "mask AP in percent"
    )
    return Comparison(
        title=f"{run.benchmark.title}, {run.percent} % labeled: {what}",
        columns=["", *_our_columns(run), f"paper, {run.benchmark.metric}"],
        rows=rows,
        facts=dict(_facts(run)),
    )


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write it as Markdown; returns the file."""
    figures = markdown_table(comparison.columns, comparison.rows)
    facts = markdown_table(["of this run", ""], list(comparison.facts.items()))
    path = folder / TABLE
    write_text(path, f"# {comparison.title}\n\n{figures}\n{facts}")
    return path


def _our_columns(run: Reproduction) -> list[str]:
    own = [f"ours, {run.benchmark.metric}"]
    return own if run.benchmark.name == "coco" else [*own, "ours, COCO AP"]


def _figures(run: Reproduction, result: Mapping[str, Any]) -> list[str]:
    values = [result.get("AP")]
    if run.benchmark.name == "cityscapes":
        values.insert(0, result.get("cityscapes", {}).get("AP"))
    return [NO_FIGURE if value is None else f"{value:.1f}" for value in values]


def _facts(run: Reproduction) -> Iterator[tuple[str, str]]:
    for stage, source in (run.released or {}).items():
        yield f"published {stage}", f"{source}, {file_hash(find_weights(source).path)}"
    if run.overrides:
        yield "changed settings", ", ".join(run.overrides)
    if not run.trains:
        return
    yield "split", _split(json.loads((run.split / RECORD).read_text()))
    records = {
        stage: read_run(weights.parent) or {}
        for stage, weights in run.weights.items()
        if stage not in (run.released or {})
    }
    trainings = {stage: record["config"][stage] for stage, record in records.items()}
    seeds = {**trainings, "refine": records[STUDENT]["config"]["refine"]}
    yield "seeds", ", ".join(f"{name} {settings['seed']}" for name, settings in seeds.items())
    if teacher := trainings.get(TEACHER):
        yield (
            "schedule of the teacher",
            f"{teacher['iterations']:,} iterations, batch size {teacher['batch_size']}",
        )
    student = trainings[STUDENT]
    size = f"{student['batch_size']} + {student['unlabeled_batch_size']}"
    yield (
        "schedule of the student",
        f"{student['iterations']:,} iterations, batch size {size}, "
        f"burn-in {student['burn_in']:,}, new labels every {student['refresh_every'] or 0:,}",
    )
    yield "SAM 2", str(records[STUDENT]["config"]["sam"]["model"])
    yield "hardware", f"{run.devices} x {_joined(records, 'device')}, host {_joined(records, 'host')}"
    for stage, record in records.items():
        yield f"time of the {stage}", _duration(duration_s(record))
    yield "time of the first pseudo-labels, all processes", _duration(_labeling_s(run.work_dir))
    git = records[STUDENT].get("git") or {}
    yield "commit", f"{git.get('commit', 'unknown')}{' with changes' if git.get('changed') else ''}"


def _split(record: Mapping[str, Any]) -> str:
    method = record["method"]
    how = {
        "percent": f"{method.get('percent', 0):g} % chosen with seed {method.get('seed')}",
        "list": f"published split {method.get('list')}",
    }.get(method["name"], method["name"])
    return f"{how}: {record['labeled']['images']:,} labeled, {record['unlabeled']['images']:,} unlabeled"


def _labeling_s(experiment: Path) -> float | None:
    """Seconds that refine took for the labels that the student began with."""
    entries = GenerationLog(experiment / STUDENT).entries
    statistics = entries[0].get("statistics", {}) if entries else {}
    seconds = [value for name, value in statistics.items() if name.startswith("seconds: ")]
    return sum(seconds) if seconds else None


def _duration(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{duration_text(seconds)} ({seconds / 3600:.2f} h)"


def _joined(records: Mapping[str, Mapping[str, Any]], name: str) -> str:
    sessions = [session for record in records.values() for session in record["sessions"]]
    return ", ".join(dict.fromkeys(str(session[name]) for session in sessions if session.get(name)))
