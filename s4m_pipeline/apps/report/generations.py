"""Figures of a cache's generations: counts, agreement with the previous one, quality, gate."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s4m_cache import sealed
from s4m_cache.compare import Change, compare
from s4m_cache.errors import CacheError
from s4m_cache.generation import Generation
from s4m_cache.generations import current_number, generations
from s4m_cache.reader import CacheReader
from s4m_cache.summary import State, Summary, state, summarize
from s4m_pipeline.refine.gate import REJECTED

MAX_COMPARED = 2000
"""Number of images, spread evenly, on which two generations are compared."""
_PRELOAD_BYTES = 200_000_000


@dataclass(frozen=True, kw_only=True)
class GenerationFacts:
    """One generation; unknown values are None or empty. Quality is in percent."""

    number: int
    status: str
    """`current`, `published`, `rejected`, `incomplete`, `damaged`, or `removed` (only in the history)."""
    state: State | None = None
    summary: Summary | None = None
    agreement: Change | None = None
    """Difference from the previous intact generation."""
    step: int | None = None
    """The student's iteration at which the labels were made."""
    decision: str | None = None
    """Decision of the gate: `taken`, `rejected` or `warned`."""
    quality: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `held_out` is also at the top level."""
        held_out = self.quality.get("held_out")
        return {**dataclasses.asdict(self), "held_out": held_out if isinstance(held_out, dict) else None}


def collect_generations(root: Path, history: Sequence[Mapping[str, Any]] = ()) -> list[GenerationFacts]:
    """All generations of a cache and of the student's history, by number.

    Args:
        root: the cache's folder; it need not exist.
        history: entries of the student's `GenerationLog`.
    """
    stored = generations(root)
    newest = current_number(root) if stored else 0
    recorded = {record["made"]: record for record in history}
    facts = []
    before = None
    for generation in stored:
        record = recorded.get(generation.number, {})
        facts.append(_stored_facts(generation, before, generation.number == newest, record))
        if facts[-1].fault is None:
            before = generation
    removed = [
        GenerationFacts(number=number, status="removed", **_recorded_facts(record))
        for number, record in recorded.items()
        if number not in {generation.number for generation in stored}
    ]
    return sorted([*facts, *removed], key=lambda fact: fact.number)


def _stored_facts(
    generation: Generation, before: Generation | None, is_current: bool, record: Mapping[str, Any]
) -> GenerationFacts:
    recorded = _recorded_facts(record)
    try:
        found, summary, refused = state(generation), summarize(generation), _refusal(generation)
        agreement = None if before is None else _agreement(before, generation)
    except CacheError as error:
        return GenerationFacts(number=generation.number, status="damaged", fault=str(error), **recorded)
    recorded["quality"] |= refused.get("quality", {}) | (summary.quality or {})
    recorded["statistics"] |= summary.statistics or {}
    recorded["decision"] = recorded["decision"] or recorded["quality"].get("gate")
    unpublished = "rejected" if refused else "incomplete"
    published = "current" if is_current else "published"
    return GenerationFacts(
        number=generation.number,
        status=published if found.published_at else unpublished,
        state=found,
        summary=summary,
        agreement=agreement,
        **recorded,
    )


def _refusal(generation: Generation) -> dict[str, Any]:
    """The gate's record about labels that it rejected; empty for all others."""
    try:
        return sealed.read(generation.path / REJECTED)
    except FileNotFoundError:
        return {}


def _recorded_facts(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": record.get("step"),
        "decision": record.get("decision"),
        "quality": dict(record.get("quality") or {}),
        "statistics": dict(record.get("statistics") or {}),
    }


def _agreement(before: Generation, after: Generation) -> Change | None:
    """None if the classes differ or there is no image to compare."""
    if before.spec.classes != after.spec.classes:
        return None
    with (
        CacheReader(before, preload_bytes=_PRELOAD_BYTES) as old,
        CacheReader(after, preload_bytes=_PRELOAD_BYTES) as new,
    ):
        change = compare(old, new, max_images=MAX_COMPARED)
    return change if change.num_images else None
