"""The generations of a cache as facts: counts, agreement with the one before, quality, gate."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache import sealed
from cache.compare import Change, compare
from cache.errors import CacheError
from cache.generation import Generation
from cache.generations import current_number, generations
from cache.reader import CacheReader
from cache.summary import State, Summary, state, summarise
from s4m_pipeline.engine.metrics import read_records
from s4m_pipeline.refine.gate import REJECTED

MAX_COMPARED = 2000
"""Images, spread evenly over all, on which two generations are compared."""
_PRELOAD_BYTES = 200_000_000


@dataclass(frozen=True, kw_only=True)
class GenerationFacts:
    """One generation; what is not known is None or empty. Figures of quality are in percent."""

    number: int
    status: str
    """`current`, `published`, `rejected`, `incomplete`, `damaged`, or `removed` (known from the history)."""
    state: State | None = None
    summary: Summary | None = None
    agreement: Change | None = None
    """What changed since the last generation before it that is there and whole."""
    step: int | None = None
    """The student's step at which the labels were offered."""
    decision: str | None = None
    """The gate's word: `taken`, `rejected` or `warned`."""
    quality: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the figures of all parts side by side."""
        held_out = self.quality.get("held_out")
        return {**dataclasses.asdict(self), "held_out": held_out if isinstance(held_out, dict) else None}


def collect_generations(root: Path, history: Sequence[Mapping[str, Any]] = ()) -> list[GenerationFacts]:
    """All generations of a cache and of the student's history, by number.

    Args:
        root: the cache's folder; it need not be there.
        history: records of the student's generations.jsonl.
    """
    stored = generations(root)
    newest = current_number(root) if stored else 0
    told = {record["made"]: record for record in history}
    facts = []
    before = None
    for generation in stored:
        record = told.get(generation.number, {})
        facts.append(_of_stored(generation, before, generation.number == newest, record))
        if facts[-1].fault is None:
            before = generation
    gone = [
        GenerationFacts(number=number, status="removed", **_told(record))
        for number, record in told.items()
        if number not in {generation.number for generation in stored}
    ]
    return sorted([*facts, *gone], key=lambda fact: fact.number)


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a student's generations.jsonl (see `student.generations.GenerationLog`) that are whole."""
    return read_records(path, "made")


def _of_stored(
    generation: Generation, before: Generation | None, is_current: bool, record: Mapping[str, Any]
) -> GenerationFacts:
    told = _told(record)
    try:
        found, summary, refused = state(generation), summarise(generation), _refusal(generation)
        agreement = None if before is None else _agreement(before, generation)
    except CacheError as error:
        return GenerationFacts(number=generation.number, status="damaged", fault=str(error), **told)
    told["quality"] |= refused.get("quality", {}) | (summary.quality or {})
    told["statistics"] |= summary.statistics or {}
    told["decision"] = told["decision"] or told["quality"].get("gate")
    unpublished = "rejected" if refused else "incomplete"
    published = "current" if is_current else "published"
    return GenerationFacts(
        number=generation.number,
        status=published if found.published_at else unpublished,
        state=found,
        summary=summary,
        agreement=agreement,
        **told,
    )


def _refusal(generation: Generation) -> dict[str, Any]:
    """What the gate kept about labels that it refused; nothing about others."""
    try:
        return sealed.read(generation.path / REJECTED)
    except FileNotFoundError:
        return {}


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": record.get("step"),
        "decision": record.get("decision"),
        "quality": dict(record.get("quality") or {}),
        "statistics": dict(record.get("statistics") or {}),
    }


def _agreement(before: Generation, after: Generation) -> Change | None:
    """None when the classes differ, or there is no image to compare."""
    if before.spec.classes != after.spec.classes:
        return None
    with (
        CacheReader(before, preload_bytes=_PRELOAD_BYTES) as old,
        CacheReader(after, preload_bytes=_PRELOAD_BYTES) as new,
    ):
        change = compare(old, new, max_images=MAX_COMPARED)
    return change if change.num_images else None
