"""What a person asks first: where does it fail, and what is to be done next?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from s4m_pipeline.apps.report.errors import Errors

_NAMED = 3
"""Classes, and confusions, that a line names."""
_SIZES = ("small", "medium", "large")


def failures(errors: Errors | None, evaluation: Mapping[str, Any]) -> list[str]:
    """Lines about the errors of the student, or of the teacher where there is no student."""
    if errors is None:
        return ["Not known: nothing was evaluated yet."]
    stage, counts = next(iter(errors.stages.items()))
    missed = _percent(counts["missed"], counts["objects"])
    nothing, second, wrong = (
        _percent(counts[kind], counts["predictions"])
        for kind in ("false positive", "duplicate", "wrong class")
    )
    lines = [
        f"Of {counts['objects']} objects the {stage} misses {missed}{_by_size(counts['missed by size'])}.",
        f"Of its {counts['predictions']} predictions {nothing} are false positives, {second} are "
        f"duplicates, {wrong} have the wrong class.",
    ]
    per_class = evaluation.get(errors.split, {}).get(stage, {}).get("per_class", {})
    known = sorted((ap, name) for name, ap in per_class.items() if ap is not None)
    if len(known) > 1:
        named = ", ".join(f"{name} ({ap:.1f})" for ap, name in known[:_NAMED])
        lines.append(f"Classes of lowest AP: {named}.")
    if confused := _confused(np.array(counts["confusion"]), errors.classes):
        lines.append(f"Most often confused: {confused}.")
    images = {"val": "validation images", "test": "test images"}[errors.split]
    lines.append(
        f"Counted on {errors.num_images} {images}, predictions as `s4m predict` finds them: with a score "
        f"of at least {errors.min_score}, without near copies."
    )
    return lines


def _percent(count: int, total: int) -> str:
    return f"{100 * count / max(1, total):.0f} %"


def _by_size(counts: list[list[int]]) -> str:
    parts = [
        f"{_percent(missed, total)} of the {size} ones"
        for size, (missed, total) in zip(_SIZES, counts, strict=True)
        if total
    ]
    return f" ({', '.join(parts)})" if len(parts) > 1 else ""


def _confused(counts: np.ndarray, classes: list[str]) -> str:
    wrong = counts[:-1, :-1] * ~np.eye(len(classes), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_NAMED]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)]
    return ", ".join(f"{classes[i]} taken for {classes[j]} ({wrong[i, j]})" for i, j in pairs if wrong[i, j])


def next_steps(folder: Path, stages: Mapping[str, Any], errors: Errors | None) -> list[str]:
    """Lines with commands."""
    if not stages["student"] or stages["student"]["status"] != "finished":
        return ["Finish the experiment: s4m run CONFIG"]
    lines = []
    if errors is None:
        lines.append(f"See where it fails: s4m evaluate CONFIG {folder / 'student/weights.safetensors'}")
    elif errors.split == "test":
        lines.append(
            "The errors below are of test images, which are not to be tuned on. Those of validation images: "
            f"s4m evaluate CONFIG {folder / 'student/weights.safetensors'}"
        )
    if stages["labels"]:
        lines.append(f"Label the images that would teach it most: s4m suggest {folder} --count 20")
    lines.append("Predict images: s4m predict CONFIG IMAGES")
    return lines
