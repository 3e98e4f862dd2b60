"""The gate: labels that are clearly worse on the validation images than those before are not taken."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cache import sealed
from cache.errors import disk_error
from cache.generation import Generation
from cache.generations import current_number
from s4m_pipeline import console
from s4m_pipeline.options.student import StudentOptions

REJECTED = "REJECTED.json"


@dataclass(frozen=True)
class Outcome:
    """What became of a generation."""

    word: Literal["taken", "warned", "rejected", "incomplete"]
    """`warned`: published, although it is clearly worse; `incomplete`: shards are not done."""
    about: Mapping[str, Any]
    """`quality` (with `held_out`) and, once published, `statistics`."""

    @classmethod
    def of_published(cls, publication: Mapping[str, Any]) -> "Outcome":
        """What had become of it when it was published."""
        about = {name: publication[name] for name in ("quality", "statistics")}
        return cls(publication["quality"].get("gate", "taken"), about)


def judge(
    options: StudentOptions, new_pq: float | None, current_pq: float | None
) -> Literal["taken", "warned", "rejected"]:
    """Compare panoptic qualities in percent; None: unknown, which speaks against nothing."""
    if options.gate == "off" or new_pq is None or current_pq is None:
        return "taken"
    if round(current_pq - new_pq, 2) <= options.gate_drop:
        return "taken"
    return "warned" if options.gate == "warn" else "rejected"


def pass_gate(options: StudentOptions, generation: Generation, quality: dict[str, Any]) -> Outcome:
    """Decide whether a generation is to be published, say what speaks against it, and keep a rejection.

    The same figures get the same answer. The first generation, and one after a generation without figures,
    is never refused.

    Args:
        quality: with `held_out`; its `PQ before` and `gate` are filled in.

    Raises:
        CacheError: if the disk refuses.
    """
    held_out, current = quality["held_out"], _current(generation)
    before = None if current is None else _pq(current)
    word = judge(options, held_out["PQ"], before)
    held_out["PQ before"], quality["gate"] = before, word
    outcome = Outcome(word, {"quality": quality})
    if word == "taken":
        return outcome
    assert current is not None  # else nothing spoke against it
    reason = (
        f"on the validation images {generation.name} has a PQ of {held_out['PQ']:.2f}, {current.name}, which "
        f"is current, {before:.2f}: more than student.gate_drop={options.gate_drop:g} below"
    )
    if word == "warned":
        console.progress.print(f"Warning: {reason}.", soft_wrap=True)
        return outcome
    return reject(
        generation,
        quality,
        f"{reason}. `s4m cache publish {generation.root} --generation {generation.number}` takes it all the "
        "same.",
    )


def reject(generation: Generation, quality: Mapping[str, Any], reason: str) -> Outcome:
    """Say that readers keep the labels they have, and why, and keep a note of it beside the labels.

    Raises:
        CacheError: if the disk refuses.
    """
    outcome = Outcome("rejected", {"quality": {**quality, "gate": "rejected"}})
    path = generation.path / REJECTED
    try:
        with generation.pin():  # else garbage collection might take the file on its way
            sealed.write(path, dict(outcome.about))
    except OSError as error:
        raise disk_error(path, 4096, error) from error
    kept = f"gen-{current_number(generation.root):04d}"
    console.progress.print(
        f"{generation.name} is not published, readers keep {kept}: {reason}", soft_wrap=True
    )
    return outcome


def is_rejected(generation: Generation) -> bool:
    """Whether the gate has refused it."""
    return (generation.path / REJECTED).exists()


def _current(generation: Generation) -> Generation | None:
    number = current_number(generation.root)
    return None if number in (0, generation.number) else Generation(generation.root, number)


def _pq(generation: Generation) -> float | None:
    publication = generation.published() or {"quality": {}}
    pq: float | None = publication["quality"].get("held_out", {}).get("PQ")
    return pq
