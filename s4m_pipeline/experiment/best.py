"""The best weights of an experiment: those of the stage with the highest AP on the validation images."""

import json
import shutil
from pathlib import Path
from typing import Any

from s4m_cache.atomic import atomic_path, write_text
from s4m_cache.fingerprint import file_hash
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import BEST, BEST_RECORD, CONTROL, STUDENT, TEACHER, WEIGHTS
from s4m_pipeline.experiment.run_record import read_run


def update_best(folder: Path) -> None:
    """Give the best weights the name best.safetensors as well, and keep in best.json whose they are and why.

    Finished trainings count, each with the AP of its last validation, which is that of its weights.
    """
    found = {stage: validation_ap(folder / stage) for stage in (TEACHER, STUDENT, CONTROL)}
    scores = {stage: score for stage, score in found.items() if score is not None}
    if not scores:
        return
    best = max(scores, key=lambda stage: scores[stage])
    others = ", ".join(f"{stage} {score:.1f}" for stage, score in scores.items() if stage != best)
    weights = folder / best / WEIGHTS
    sha256 = file_hash(weights)
    if _record(folder).get("weights") != sha256 or not (folder / BEST).is_file():
        _link_or_copy(weights, folder / BEST)
    record = {
        "stage": best,
        "reason": f"the {best}, validation AP {scores[best]:.1f}" + (f" ({others})" if others else ""),
        "AP": scores,
        "weights": sha256,
    }
    write_text(folder / BEST_RECORD, json.dumps(record, indent=2) + "\n")


def validation_ap(stage: Path) -> float | None:
    """AP of a finished training's weights on the validation images, in percent (0 if it was not measured);
    None if the training has not finished."""
    run = read_run(stage)
    if run is None or run["status"] != "finished" or not (stage / WEIGHTS).is_file():
        return None
    return float(run["result"].get("AP") or 0.0)


def best_weights(folder: Path) -> tuple[Path, str]:
    """best.safetensors of an experiment, and in one line why these weights are the best.

    Raises:
        UserError: if there is none.
    """
    record = _record(folder)
    if not record or not (folder / BEST).is_file():
        raise UserError(
            f"{folder} has no {BEST}, which is used where no checkpoint is named.\n"
            "Every finished training updates it: run `s4m run CONFIG`, or name a checkpoint."
        )
    return folder / BEST, record["reason"]


def _link_or_copy(source: Path, target: Path) -> None:
    """Weights are never written in place, so that a second name for the same file is as good as a copy."""
    with atomic_path(target) as temporary:
        try:
            temporary.hardlink_to(source)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, temporary)


def _record(folder: Path) -> dict[str, Any]:
    path = folder / BEST_RECORD
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content
