"""evaluation.json of an experiment: the results of its finished weights, by split and stage."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s4m_cache.atomic import write_text
from s4m_cache.fingerprint import file_hash, settings_hash
from s4m_pipeline.config.groups import DataOptions, Split
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import CONTROL, EVALUATION, MATCHES, STUDENT, TEACHER, WEIGHTS
from s4m_pipeline.experiment.run_record import read_run


def conditions(annotations: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """What a result depends on besides the weights, as hashes that change when any of it does.

    Args:
        annotations: the ground truth's COCO JSON.
        config: the whole config as plain values.
    """
    settings = settings_hash([config["model"], config["test_pipeline"]])
    return {"annotations": file_hash(annotations), "settings": settings}


def is_own(stage_folder: Path, split: Split, config: Mapping[str, Any], found: Mapping[str, str]) -> bool:
    """Whether a result was measured as its experiment says: on its split, with its model and test pipeline.

    Args:
        stage_folder: holds the run.json of the training, whose data and settings count.
        split: the validation images are those of the training; test images may be named later.
        config: the experiment's config file without overrides.
        found: `conditions` of the result.
    """
    trained = (read_run(stage_folder) or {}).get("config", config)
    both = (trained, config)
    settings = [settings_hash([it["model"], it["test_pipeline"]]) for it in both if "test_pipeline" in it]
    files = [_annotations(it, split) for it in (both if split == "test" else both[:1])]
    annotations = [file_hash(path) for path in files if path and path.is_file()]
    return found["settings"] in settings and (not annotations or found["annotations"] in annotations)


def _annotations(config: Mapping[str, Any], split: Split) -> Path | None:
    data = config["data"]
    return DataOptions.model_construct(**data).path(data[split]) if data.get(split) else None


def read_evaluations(experiment: Path) -> dict[str, dict[str, Any]]:
    """Results by split and stage; empty before the first.

    Raises:
        UserError: if the file is no JSON.
    """
    path = experiment / EVALUATION
    try:
        content = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}\nDelete it, and evaluate again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no results.\nDelete it, and evaluate again.")
    found = {
        split: {stage: result for stage, result in entries.items() if isinstance(result, dict)}
        for split, entries in content.items()
        if isinstance(entries, dict)
    }
    return {split: results for split, results in found.items() if results}


def write_evaluation(weights: Path, split: str, result: Mapping[str, Any]) -> None:
    """Enter the result of the finished weights `EXPERIMENT/STAGE/FILE`, in place of an earlier one."""
    stage, experiment = weights.parent.name, weights.parents[1]
    content = read_evaluations(experiment)
    content.setdefault(split, {})[stage] = {**result, "weights": file_hash(weights)}
    write_text(experiment / EVALUATION, json.dumps(content, indent=2) + "\n")


def current_results(experiment: Path, split: str) -> dict[str, dict[str, Any]]:
    """Results on a split by stage, of the weights that are there now: not those of earlier ones."""
    results = read_evaluations(experiment).get(split, {})
    weights = {stage: experiment / stage / WEIGHTS for stage in (TEACHER, STUDENT, CONTROL)}
    return {
        stage: results[stage]
        for stage, path in weights.items()
        if stage in results and path.is_file() and results[stage].get("weights") == file_hash(path)
    }


def matches_file(stage_folder: Path, split: str) -> Path:
    """Where the matches that belong to a stage's result are kept."""
    return stage_folder.parent / MATCHES / f"{split}-{stage_folder.name}.npz"


def predictions_file(stage_folder: Path, split: str) -> Path:
    """Where the predictions that belong to a stage's result are kept, as COCO results."""
    return matches_file(stage_folder, split).with_suffix(".json")
