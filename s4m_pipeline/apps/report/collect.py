"""Collect the contents of the report from an experiment's folder; missing files are left out."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from s4m_cache.errors import CacheError
from s4m_cache.generations import generations
from s4m_pipeline.apps.report.answers import failures, next_steps
from s4m_pipeline.apps.report.errors import collect_errors
from s4m_pipeline.apps.report.gallery import Source, build_gallery
from s4m_pipeline.apps.report.generations import GenerationFacts, collect_generations
from s4m_pipeline.apps.report.pictures import data_uri
from s4m_pipeline.apps.report.trainings import Run, provenance, training_charts
from s4m_pipeline.config.groups import DataOptions
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import STUDENT, TEACHER
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.images import ImageError, read_rgb
from s4m_pipeline.data.unlabeled import require_same_list, unlabeled_of
from s4m_pipeline.evaluation.ground_truth import require_truth
from s4m_pipeline.evaluation.verdict import kept_verdict
from s4m_pipeline.experiment.evaluation_file import read_evaluations
from s4m_pipeline.experiment.generation_log import GenerationLog
from s4m_pipeline.experiment.metrics import read_metrics
from s4m_pipeline.experiment.run_record import duration_s, duration_text

SIMILARITY = "similarity.png"
AUGMENTATION = "augmentation.png"
PICTURES = {
    SIMILARITY: "Similarity to the marked points, by SAM 2 and by the teacher",
    AUGMENTATION: "Augmentation: from the files to the network's input, in the student's first iteration",
}
"""Pictures in the experiment's folder, drawn by the other report commands, and their titles."""
_PICTURE_SIDE_PX = 1800
Found = TypeVar("Found")
PICTURE_BYTES = 400_000


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """The images and the ground truth of the labels."""

    data: DataOptions
    ground_truth: str | None


def collect(
    folder: Path,
    runs: Mapping[str, Run],
    cache: Path,
    source: DataSource | str,
    num_images: int,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """The contents of an experiment's report, as plain values.

    Args:
        folder: of the experiment.
        runs: run.json of each training that has begun, by `teacher`, `student`.
        cache: of the experiment.
        source: of the gallery's images, or the reason why it is unknown.
        num_images: largest number of images in the gallery.
        note: called with a message about everything that is left out.

    Raises:
        UserError: if the folder is not that of an experiment, or a file in it is not JSON.
    """
    evaluation = {
        split: {name: {"per_class": {}, **result} for name, result in results.items()}
        for split, results in read_evaluations(folder).items()
    }
    stored = generations(cache)
    if not runs and not stored and not evaluation:
        raise UserError(
            f"{folder} contains nothing to report: no teacher/run.json, no student/run.json and no "
            f"labels in {cache}.\nExpected the folder of an experiment, such as work_dirs/demo. "
            "Start one with: s4m pretrain-teacher CONFIG"
        )
    history = GenerationLog(folder / STUDENT).entries
    facts = collect_generations(cache, history)
    gallery, reason = _gallery(cache, source, num_images)
    if reason:
        note(f"No gallery: {reason}")
    stages = _stages(runs, facts, evaluation, source)
    errors = _found(lambda data: collect_errors(folder, data, num_images), source, "No errors shown", note)
    described = _found(describe_data, source, "No figures of the data set", note)
    return {
        "name": folder.resolve().name,
        "answers": {"failures": failures(errors, evaluation), "next": next_steps(folder, stages, errors)},
        "stages": stages,
        "evaluation": evaluation,
        "verdict": kept_verdict(folder),
        "errors": errors and dataclasses.asdict(errors),
        "dataset": described,
        "trainings": [
            {
                "stage": name,
                "charts": [
                    dataclasses.asdict(chart) for chart in training_charts(read_metrics(folder / name))
                ],
                "events": _events(history) if name == STUDENT else [],
            }
            for name in runs
        ],
        "generations": [fact.as_dict() for fact in facts],
        "gallery": gallery,
        "gallery_reason": reason,
        "pictures": _pictures(folder, note),
        "provenance": dataclasses.asdict(provenance(runs)),
        "configs": {name: run["config"] for name, run in runs.items() if "config" in run},
    }


def _found(
    collect_from: Callable[[DataOptions], Found],
    source: DataSource | str,
    title: str,
    note: Callable[[str], None],
) -> Found | None:
    """What is collected from the experiment's data; None, and a note, where that is not possible."""
    try:
        if isinstance(source, str):
            raise UserError(source)
        return collect_from(source.data)
    except UserError as error:
        note(f"{title}: {error}")
        return None


def _stages(
    runs: Mapping[str, Run],
    facts: Sequence[GenerationFacts],
    evaluation: Mapping[str, Any],
    source: DataSource | str,
) -> dict[str, Any]:
    """Key figures of the three stages; None for a stage that has not begun."""
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
        "iterations": run.get("config", {}).get(name, {}).get("iterations"),
        "duration": None if seconds is None else duration_text(seconds),
    }


def _events(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Iterations of the student at which new labels were made, for its curves."""
    return [
        {
            "step": record["step"],
            "text": f"generation {record['made']} {record.get('decision', '')}".strip(),
        }
        for record in history
        if isinstance(record.get("step"), int) and record["step"] > 0
    ]


def _gallery(root: Path, source: DataSource | str, count: int) -> tuple[dict[str, Any] | None, str | None]:
    """The gallery, or the reason why there is none (None if there are no labels yet)."""
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
    images_root = data.path(data.train_images)
    unlabeled = unlabeled_of(data)
    truth = unlabeled.annotated
    if source.ground_truth is not None:
        truth = load_coco(data.path(source.ground_truth), images_root)
        labeled = load_coco(data.path(data.labeled), images_root)
        require_truth(truth, unlabeled.images, labeled)
    return Source(unlabeled, truth)


def _pictures(folder: Path, note: Callable[[str], None]) -> list[dict[str, Any]]:
    found = []
    for name, title in PICTURES.items():
        if not (folder / name).is_file():
            continue
        try:
            found.append({"title": title, "name": name, **_picture(read_rgb(folder / name)[0])})
        except ImageError as error:
            note(f"Picture left out: {error}")
    return found


def _picture(pixels: np.ndarray) -> dict[str, Any]:
    source = data_uri(pixels, side_px=_PICTURE_SIDE_PX, max_bytes=PICTURE_BYTES)
    return {"source": source, "width": pixels.shape[1], "height": pixels.shape[0]}


def describe_data(data: DataOptions) -> dict[str, Any]:
    """Figures of each part of an experiment's data, as plain values; the unlabeled part has no objects.

    Raises:
        UserError: if a part is missing or faulty.
    """
    sources: dict[str, tuple[Path, Path]] = {
        "labeled": (data.path(data.labeled), data.path(data.train_images)),
        "validation": data.split("val"),
    }
    if data.test is not None:
        sources["test"] = data.split("test")
    found = {name: load_coco(*source) for name, source in sources.items()}
    parts = {name: _sizes(part.images) | _objects(part) for name, part in found.items()}
    if data.unlabeled is not None:
        parts["unlabeled"] = _sizes(unlabeled_of(data).images)
    return {"parts": parts, "classes": found["labeled"].class_names}


def _sizes(images: Any) -> dict[str, Any]:
    """Number of images, and their smallest, median and largest side in pixels."""
    sides = np.array([(image.width, image.height) for image in images]).reshape(-1, 2)
    known = sides[(sides > 0).all(axis=1)]
    median = np.median(known, axis=0).astype(int).tolist() if len(known) else None
    return {"images": len(sides), "median size": median}


def _objects(part: CocoData) -> dict[str, Any]:
    per_image = [part.instances(image.id) for image in part.images]
    areas = np.array([a["area"] for found in per_image for a in found], float)
    return {
        "objects": len(areas),
        "most": max(map(len, per_image), default=0),
        "empty": sum(not found for found in per_image),
        "sizes": np.bincount(np.digitize(areas, [32**2, 96**2]), minlength=3).tolist(),
        "per class": part.class_counts(part.images),
    }
