"""The gate: whether a generation's labels replace those before.

Labels that are clearly worse on the validation images than those before, or than the teacher's own masks, are
not published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from s4m_cache import sealed
from s4m_cache.errors import disk_error
from s4m_cache.generation import Generation
from s4m_cache.generations import current_number
from s4m_pipeline.config.student import StudentOptions
from s4m_pipeline.core import console
from s4m_pipeline.experiment.generation_log import PER_IMAGE

REJECTED = "REJECTED.json"
COLLAPSE = 0.5
"""A drop of recall or of the number of labels by more than this fraction refuses, whatever the PQ."""
FEW_LABELS = 0.1
"""Labels per image, as a fraction of the objects per validation image, that are too few to begin with."""

Decision = Literal["taken", "warned", "rejected"]


@dataclass(frozen=True)
class Outcome:
    """The decision on a generation."""

    decision: Literal["taken", "warned", "rejected", "incomplete"]
    """`warned`: published, although it is clearly worse; `incomplete`: shards are not done."""
    about: Mapping[str, Any]
    """`quality` (with `held_out`) and, once published, `statistics`."""

    @classmethod
    def of_published(cls, publication: Mapping[str, Any]) -> "Outcome":
        """The decision that it was published with."""
        about = {name: publication[name] for name in ("quality", "statistics")}
        return cls(publication["quality"].get("gate", "taken"), about)


def pass_gate(
    options: StudentOptions, generation: Generation, quality: dict[str, Any], per_image: float
) -> tuple[Decision, str]:
    """Decide whether a generation is published, and give the reasons against it.

    The same figures get the same decision.

    Args:
        quality: with `held_out`; its `PQ before`, `PQ floor` and `gate` are filled in.
        per_image: labels per image.
    """
    held_out, current = quality["held_out"], _current(generation)
    before = {} if current is None else dict(current.published() or {})
    figures = before.get("quality", {}).get("held_out", {})
    held_out["PQ before"] = figures.get("PQ")
    # Of the experiment's teacher, whoever labels now.
    held_out["PQ floor"] = figures.get("PQ floor", quality["masks"]["none"]["PQ"])
    new = {**held_out, PER_IMAGE: per_image}
    faults = []
    if current is None:
        objects = held_out["objects"] / held_out["images"] if held_out["images"] else 0.0
        if per_image < FEW_LABELS * objects:
            faults.append(
                f"{generation.name} has {per_image:.2f} labels per image, where validation images show "
                f"{objects:.2f} objects each"
            )
    else:
        old = {**figures, PER_IMAGE: before.get("statistics", {}).get(PER_IMAGE)}
        faults += find_faults(
            generation.name, new, f"{current.name}, which is current,", old, options.gate_drop
        )
    floor = {"PQ": held_out["PQ floor"]}
    faults += find_faults(generation.name, new, "the teacher's own masks", floor, options.gate_drop)
    decision = quality["gate"] = decide(options, faults)
    return decision, "; ".join(faults)


def decide(options: StudentOptions, faults: Sequence[str]) -> Decision:
    """The decision on labels with these faults."""
    if options.gate == "off" or not faults:
        return "taken"
    return "warned" if options.gate == "warn" else "rejected"


def find_faults(
    name: str, new: Mapping[str, Any], other: str, old: Mapping[str, Any], gate_drop: float
) -> list[str]:
    """What is clearly worse than before; unknown figures are no reason to refuse.

    Args:
        name: of the labels with the figures `new`.
        other: what `old` belongs to.
        gate_drop: points of PQ, or of recall, that may be lost.
    """
    faults = []
    if _drop(new, old, "PQ") > gate_drop:
        faults.append(
            f"on the validation images {name} has a PQ of {new['PQ']:.2f}, {other} {old['PQ']:.2f}: "
            f"more than student.gate_drop={gate_drop:g} below"
        )
    if (drop := _drop(new, old, "recall")) > gate_drop and drop > COLLAPSE * old["recall"]:
        faults.append(
            f"on the validation images {name} has a recall of {new['recall']:.2f}, {other} "
            f"{old['recall']:.2f}: a collapse"
        )
    if (drop := _drop(new, old, PER_IMAGE)) and drop > COLLAPSE * old[PER_IMAGE]:
        faults.append(
            f"{name} has {new[PER_IMAGE]:.2f} labels per image, {other} {old[PER_IMAGE]:.2f}: a collapse"
        )
    return faults


def _drop(new: Mapping[str, Any], old: Mapping[str, Any], figure: str) -> float:
    """By how much a figure fell, to hundredths; 0 if one of them is unknown."""
    now, was = new.get(figure), old.get(figure)
    return 0.0 if now is None or was is None else round(was - now, 2)


def reject(generation: Generation, quality: Mapping[str, Any], reason: str) -> Outcome:
    """Record beside the labels that they were refused; say so, and which labels readers keep.

    Raises:
        CacheError: if writing to the disk fails.
    """
    outcome = Outcome("rejected", {"quality": {**quality, "gate": "rejected"}})
    path = generation.path / REJECTED
    try:
        with generation.pin():  # else garbage collection might delete the temporary file
            sealed.write(path, dict(outcome.about))
    except OSError as error:
        raise disk_error(path, 4096, error) from error
    if number := current_number(generation.root):
        console.progress.print(
            f"{generation.name} is not published, readers keep gen-{number:04d}: {reason}", soft_wrap=True
        )
    return outcome


def is_rejected(generation: Generation) -> bool:
    """Whether the gate has refused it."""
    return (generation.path / REJECTED).exists()


def _current(generation: Generation) -> Generation | None:
    number = current_number(generation.root)
    return None if number in (0, generation.number) else Generation(generation.root, number)
