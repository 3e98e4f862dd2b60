"""The generations of a cache as facts: counts, agreement with the one before, quality, gate."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.compare import Change, compare
from cache.errors import CacheError
from cache.generation import Generation
from cache.generations import current_number, generations
from cache.reader import CacheReader
from cache.summary import State, Summary, state, summarise

MAX_COMPARED = 2000
"""Images, spread evenly over all, on which two generations are compared."""
_PRELOAD_BYTES = 200_000_000


@dataclass(frozen=True, kw_only=True)
class GenerationFacts:
    """One generation; what is not known is None or empty. Figures of quality are in percent."""

    number: int
    status: str
    """`current`, `published`, `incomplete`, `damaged`, or `removed` (known from the history alone)."""
    state: State | None = None
    summary: Summary | None = None
    agreement: Change | None = None
    """What changed since the last generation before it that is there and whole."""
    step: int | None = None
    """The student's step at which the labels were offered."""
    decision: str | None = None
    """`taken`, `rejected` or `warned`."""
    quality: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the figures of all parts side by side."""
        plain = dataclasses.asdict(self)
        held_out = self.statistics.get("held_out")
        return {**plain, "held_out": held_out if isinstance(held_out, dict) else None}


def collect_generations(root: Path, history: Sequence[Mapping[str, Any]] = ()) -> list[GenerationFacts]:
    """All generations of a cache and of the student's history, by number.

    Args:
        root: the cache's folder; it need not be there.
        history: records of the student's generations.jsonl.
    """
    stored = generations(root)
    newest = current_number(root) if stored else 0
    told = {record["generation"]: record for record in history}
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
    """The student's generations.jsonl: an object a line with `generation`, `step`, `decision`, `quality`,
    `statistics`; none where there is no file, half a line of a killed run is passed over."""
    records = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("generation"), int):
            records.append(record)
    return records


def _of_stored(
    generation: Generation, before: Generation | None, is_current: bool, record: Mapping[str, Any]
) -> GenerationFacts:
    told = _told(record)
    try:
        found, summary = state(generation), summarise(generation)
        agreement = None if before is None else _agreement(before, generation)
    except CacheError as error:
        return GenerationFacts(number=generation.number, status="damaged", fault=str(error), **told)
    told["quality"] |= summary.quality or {}
    told["statistics"] |= summary.statistics or {}
    published = "current" if is_current else "published"
    return GenerationFacts(
        number=generation.number,
        status=published if found.published_at else "incomplete",
        state=found,
        summary=summary,
        agreement=agreement,
        **told,
    )


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
