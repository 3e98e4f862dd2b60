"""Likely causes for a student that is no better than its teacher, from what was measured on the way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from s4m_pipeline.config.experiment import Options
from s4m_pipeline.core.paths import STUDENT
from s4m_pipeline.experiment.generation_log import PER_IMAGE, GenerationLog
from s4m_pipeline.experiment.metrics import read_metrics

LOW_ACCURACY = 70.0
"""Percent of the labels that match an object of their class, below which classes count as a likely cause."""
FEW_LABELS = 0.5
"""Labels per object of the validation images, below which there are few."""
COLLAPSE = 0.5
"""Labels per image compared with the first generation's, below which labels have collapsed."""
STILL_RISING = 0.5
"""Validation AP of the last validation above all earlier ones, from which on training counts as too short."""


class Cause(NamedTuple):
    """What may have gone wrong, and the command that would change it."""

    text: str
    settings: str
    """Options of `s4m run`; empty: no setting changes it."""


def likely_causes(folder: Path, options: Options) -> list[Cause]:
    """What may be wrong with the labels or the training of the student in an experiment's folder."""
    entries = GenerationLog(folder / STUDENT).entries
    found = _label_causes(entries, options) if entries else []
    return found + _training_causes(read_metrics(folder / STUDENT), options)


def _label_causes(entries: Sequence[dict[str, Any]], options: Options) -> list[Cause]:
    first = entries[0].get("quality") or {}
    measured = first.get("held_out") or {}
    few = _few_labels(measured, options)
    causes = (
        _worse_after_refinement(first),
        _wrong_classes(measured, None if few else options.refine.min_score),
        few,
        _collapse(entries),
    )
    return [cause for cause in causes if cause is not None]


def _worse_after_refinement(quality: dict[str, Any]) -> Cause | None:
    masks, taken = quality.get("masks", {}), quality.get("masks taken")
    own, used = (masks.get(kind, {}).get("PQ") for kind in ("none", taken))
    if own is None or used is None or used >= own:
        return None
    return Cause(
        f"Refinement made the labels worse: on validation images, the teacher's own masks have a panoptic "
        f"quality (PQ) of {own:.1f}, those of prompt {taken!r} {used:.1f}.",
        "--set refine.prompt=auto",
    )


def _wrong_classes(measured: dict[str, Any], min_score: float | None) -> Cause | None:
    """`min_score`: the threshold that may be raised; None: there are too few labels for that."""
    accuracy = measured.get("CA")
    if accuracy is None or accuracy >= LOW_ACCURACY:
        return None
    quality = {name.removeprefix("PQ, "): pq for name, pq in measured.items() if name.startswith("PQ, ")}
    worst = sorted(quality, key=lambda name: quality[name] or 0.0)[:3]
    return Cause(
        f"Many labels match no object of their class: class accuracy (CA) is {accuracy:.0f} % on validation "
        f"images. Label more images of: {', '.join(worst)}.",
        "" if min_score is None else f"--set refine.min_score={(1 + min_score) / 2:.2g}",
    )


def _few_labels(measured: dict[str, Any], options: Options) -> Cause | None:
    labels, objects = measured.get("instances"), measured.get("objects")
    if labels is None or not objects or labels >= FEW_LABELS * objects:
        return None
    return Cause(
        f"There are few labels: {labels} for {objects} objects of the validation images.",
        f"--set refine.min_score={options.refine.min_score / 2:.2g}",
    )


def _collapse(entries: Sequence[dict[str, Any]]) -> Cause | None:
    counts = {entry["made"]: entry.get("statistics", {}).get(PER_IMAGE) for entry in entries}
    first = counts[entries[0]["made"]]
    fewest = min((count for count in counts.values() if count is not None), default=None)
    if refused := [entry["made"] for entry in entries if entry["decision"] == "rejected"]:
        names = ", ".join(f"gen-{number:04d}" for number in refused)
        text = f"Refreshed labels were refused as worse than those before: {names}."
    elif first and fewest is not None and fewest < COLLAPSE * first:
        text = f"Labels collapsed while training: {first:g} per image at first, {fewest:g} later."
    else:
        return None
    return Cause(text, "--set student.refresh_every=None")


def _training_causes(metrics: Sequence[dict[str, Any]], options: Options) -> list[Cause]:
    scores = [record["val_AP"] for record in metrics if "val_AP" in record]
    if len(scores) < 2 or scores[-1] < max(scores[:-1]) + STILL_RISING:
        return []
    return [
        Cause(
            f"Training was too short: validation AP still rose, from {max(scores[:-1]):.1f} to "
            f"{scores[-1]:.1f} at the last validation.",
            f"--set student.iterations={2 * options.require_student().iterations}",
        )
    ]
