"""What made an experiment: the run.json of its trainings as rows that people read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of texts under a heading each; a row's first text names it, a missing value is None."""

    columns: list[str]
    rows: list[list[str | None]]


def provenance(runs: Mapping[str, Run]) -> Table:
    """One column for each stage (`run.json` by stage); rows that no stage fills are left out."""
    described = {name: _describe(name, run) for name, run in runs.items()}
    labels = list(dict.fromkeys(label for facts in described.values() for label in facts))
    rows = [[label, *(facts.get(label) for facts in described.values())] for label in labels]
    return Table(list(runs), [row for row in rows if any(row[1:])])


def duration_s(run: Run) -> float | None:
    """Seconds of all sessions that ended; None if none did."""
    ended = [session for session in run.get("sessions", ()) if session.get("ended")]
    spans = [_time(session["ended"]) - _time(session["started"]) for session in ended]
    return sum(span.total_seconds() for span in spans) if spans else None


def duration_text(seconds: float) -> str:
    """`42 s`, `6 min 12 s`, `3 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _describe(stage: str, run: Run) -> dict[str, str | None]:
    sessions: Sequence[Mapping[str, Any]] = run.get("sessions", ())
    options = run.get("config", {}).get(stage, {})
    names = {"iterations": "steps", "batch_size": "labelled images a step", "precision": "precision"}
    names |= {"unlabeled_batch_size": "unlabelled images a step", "ema": "EMA decay", "seed": "seed"}
    return {
        "status": run.get("status"),
        "began": _moment(sessions[0].get("started")) if sessions else None,
        "ended": _moment(sessions[-1].get("ended")) if sessions else None,
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


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _moment(text: str | None) -> str | None:
    return None if text is None else _time(text).strftime("%Y-%m-%d %H:%M:%S %Z").strip()
