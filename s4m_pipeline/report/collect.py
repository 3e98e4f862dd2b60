"""Everything the page shows, gathered from an experiment's folder; what is not there yet is left out."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import CacheError
from cache.generations import generations
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.images import ImageError, read_rgb
from s4m_pipeline.data.unlabeled import load_unlabeled
from s4m_pipeline.engine.metrics import read_metrics
from s4m_pipeline.errors import UserError
from s4m_pipeline.evaluation.ground_truth import require_truth
from s4m_pipeline.layout import EVALUATION, STUDENT, TEACHER
from s4m_pipeline.options.groups import DataOptions
from s4m_pipeline.report.curves import training_charts
from s4m_pipeline.report.gallery import Source, build_gallery, require_same_list
from s4m_pipeline.report.generations import GenerationFacts, collect_generations, read_history
from s4m_pipeline.report.pictures import data_uri
from s4m_pipeline.report.provenance import Run, duration_s, duration_text, provenance

SIMILARITY = "similarity.png"
AUGMENTATION = "augmentation.png"
PICTURES = {
    SIMILARITY: "What SAM 2 and the teacher find similar to the marked points",
    AUGMENTATION: "From the files to what the network gets: both branches in the first step of the student",
    "arp.png": "ARP: unlabelled images before and after instances were exchanged",
}
"""Pictures of the other report commands, taken in when they lie in the experiment's folder."""
_PICTURE_SIDE_PX = 1800
PICTURE_BYTES = 400_000


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where an experiment's outputs are."""

    folder: Path
    cache: Path
    metrics: Mapping[str, Path]
    """metrics.jsonl by training: `teacher`, `student`."""
    history: Path
    """The student's generations.jsonl."""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Which images and ground truth the labels belong to."""

    data: DataOptions
    ground_truth: str | None


def collect(
    places: Places,
    runs: Mapping[str, Run],
    source: DataSource | str,
    num_images: int,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """All that is known of an experiment, as plain values.

    Args:
        runs: run.json of each training that has begun, by `teacher`, `student`.
        source: of the gallery's images, or the reason why it is not known.
        num_images: in the gallery, at most.
        note: told what had to be left out.

    Raises:
        UserError: if the folder holds nothing of an experiment, or a file in it is no JSON.
    """
    evaluation = _evaluations(places.folder / EVALUATION)
    stored = generations(places.cache)
    if not runs and not stored and not evaluation:
        raise UserError(
            f"{places.folder} holds nothing to report: neither teacher/run.json nor student/run.json nor "
            "labels in cache/.\nExpected the folder of an experiment, such as work_dirs/demo. "
            "It is begun by: s4m pretrain-teacher CONFIG"
        )
    history = read_history(places.history)
    facts = collect_generations(places.cache, history)
    gallery, reason = _gallery(places.cache, source, num_images)
    if reason:
        note(f"No gallery: {reason}")
    return {
        "name": places.folder.resolve().name,
        "stages": _stages(runs, facts, evaluation, source),
        "evaluation": evaluation,
        "trainings": [
            {
                "stage": name,
                "charts": [dataclasses.asdict(chart) for chart in training_charts(read_metrics(path))],
                "events": _events(history) if name == STUDENT else [],
            }
            for name, path in places.metrics.items()
        ],
        "generations": [fact.as_dict() for fact in facts],
        "gallery": gallery,
        "gallery_reason": reason,
        "pictures": _pictures(places.folder, note),
        "provenance": dataclasses.asdict(provenance(runs)),
        "configs": {name: run["config"] for name, run in runs.items() if "config" in run},
    }


def _evaluations(path: Path) -> dict[str, dict[str, Any]]:
    """Results by split and checkpoint; whatever else the file holds is passed over."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}\nDelete it, and evaluate again.") from error
    splits = {split: entries for split, entries in content.items() if isinstance(entries, dict)}
    found = {
        split: {
            name: {"per_class": {}, **result} for name, result in entries.items() if isinstance(result, dict)
        }
        for split, entries in splits.items()
    }
    return {split: results for split, results in found.items() if results}


def _stages(
    runs: Mapping[str, Run],
    facts: Sequence[GenerationFacts],
    evaluation: Mapping[str, Any],
    source: DataSource | str,
) -> dict[str, Any]:
    """The three stages in a few figures each; None for one that has not begun."""
    trainings = {name: _training(name, run, evaluation) for name, run in runs.items()}
    whole = [fact for fact in facts if fact.summary]
    current = next((fact for fact in whole if fact.status == "current"), whole[-1] if whole else None)
    labels: dict[str, Any] | None = None
    if current is not None and current.summary is not None and current.state is not None:
        labels = {
            "status": current.status,
            "number": current.number,
            "images": current.state.num_images,
            "instances": current.summary.num_instances,
            "quality": current.quality,
            "quality_source": _truth_name(source),
        }
    return {"teacher": trainings.get(TEACHER), "labels": labels, "student": trainings.get(STUDENT)}


def _truth_name(source: DataSource | str) -> str | None:
    return None if isinstance(source, str) else source.ground_truth


def _training(name: str, run: Run, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    result = run.get("result") or {}
    evaluated = (evaluation.get("val") or {}).get(name) or {}
    seconds = duration_s(run)
    return {
        "status": run.get("status") or "unknown",
        "AP": evaluated.get("AP", result.get("AP")),
        "steps": run.get("config", {}).get(name, {}).get("iterations"),
        "duration": None if seconds is None else duration_text(seconds),
    }


def _events(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Steps of the student at which labels were offered, for its curves."""
    return [
        {
            "step": record["step"],
            "text": f"generation {record['made']} {record.get('decision', '')}".strip(),
        }
        for record in history
        if isinstance(record.get("step"), int) and record["step"] > 0
    ]


def _gallery(root: Path, source: DataSource | str, count: int) -> tuple[dict[str, Any] | None, str | None]:
    """The gallery, or the reason why there is none; no reason is given where nothing is labelled yet."""
    stored = [generation for generation in generations(root) if generation.published() is not None]
    if not stored or count == 0:
        return None, None
    if isinstance(source, str):
        return None, source
    try:
        found = _load_source(source)
        require_same_list(stored[-1], found.unlabeled)
        same = [generation for generation in stored if generation.spec.classes == stored[-1].spec.classes]
        return dataclasses.asdict(build_gallery(same, found, count)), None
    except (UserError, CacheError) as error:
        return None, str(error)


def _load_source(source: DataSource) -> Source:
    data = source.data
    if data.unlabeled is None:
        raise UserError("the config has no data.unlabeled")
    images_root = data.path(data.train_images)
    unlabeled = load_unlabeled(data.path(data.unlabeled), images_root)
    truth = unlabeled.annotated
    if source.ground_truth is not None:
        truth = load_coco(data.path(source.ground_truth), images_root)
        labelled = load_coco(data.path(data.labeled), images_root)
        require_truth(truth, unlabeled.images, labelled)
    return Source(unlabeled, truth)


def _pictures(folder: Path, note: Callable[[str], None]) -> list[dict[str, Any]]:
    found = []
    for name, title in PICTURES.items():
        if not (folder / name).is_file():
            continue
        try:
            found.append({"title": title, "name": name, **_picture(read_rgb(folder / name)[0])})
        except ImageError as error:
            note(f"Left out: {error}")
    return found


def _picture(pixels: np.ndarray) -> dict[str, Any]:
    source = data_uri(pixels, side_px=_PICTURE_SIDE_PX, max_bytes=PICTURE_BYTES)
    return {"source": source, "width": pixels.shape[1], "height": pixels.shape[0]}
