"""The file in which an experiment keeps the results of its checkpoints."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.atomic import write_text
from cache.fingerprint import file_hash, settings_hash
from s4m_pipeline.layout import EVALUATION


def conditions(annotations: Path, parts: Mapping[str, Any]) -> dict[str, str]:
    """What a result depends on besides the weights: as text that changes when any of it does.

    Args:
        annotations: the ground truth's COCO JSON.
        parts: the whole config as plain values.
    """
    settings = settings_hash([parts["model"], parts["test_pipeline"]])
    return {"annotations": file_hash(annotations), "settings": settings}


def keep_result(experiment: Path, split: str, stage: str, weights: Path, result: Mapping[str, Any]) -> None:
    """Enter a result into the experiment's file, in place of an earlier one of the same split and stage."""
    content = _read(experiment)
    content.setdefault(split, {})[stage] = {**result, "weights": file_hash(weights)}
    write_text(experiment / EVALUATION, json.dumps(content, indent=2) + "\n")


def kept_result(experiment: Path, split: str, stage: str, weights: Path) -> dict[str, Any] | None:
    """The result of these very weights, if it was kept."""
    found: dict[str, Any] | None = _read(experiment).get(split, {}).get(stage)
    return found if found and found.get("weights") == file_hash(weights) else None


def _read(experiment: Path) -> dict[str, Any]:
    path = experiment / EVALUATION
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content
