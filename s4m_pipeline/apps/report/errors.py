"""Where the networks fail: confusion, precision by recall, and predictions drawn beside the truth."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from s4m_cache.fingerprint import file_hash
from s4m_pipeline.apps.report.pictures import data_uri, grid_size, outline
from s4m_pipeline.apps.report.trainings import Chart, Series
from s4m_pipeline.config.groups import DataOptions, Split
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import STUDENT, TEACHER
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.images import ImageError, read_rgb
from s4m_pipeline.evaluation.errors import MIN_SCORE, ImageErrors, confusion, find_errors
from s4m_pipeline.evaluation.ground_truth import run_lengths
from s4m_pipeline.evaluation.matches import Matches
from s4m_pipeline.experiment.evaluation_file import current_results, matches_file, predictions_file

MAX_IMAGES = 24
PHOTO_SIDE_PX = 480
MAX_PHOTO_BYTES = 1_200_000
"""Total size of the photos, before base64 encoding."""
MAX_OUTLINE_CHARS = 1_000_000
"""Total length of the outlines."""
MAX_OBJECTS = 40
"""Predictions, and objects, drawn per image."""
_CURVE_IOUS = (0.5, 0.75)
_WRONG = ("false positive", "duplicate", "wrong class")
Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors on a split of the data, as plain values; a prediction is looked at from `min_score` on."""

    split: Split
    min_score: float
    num_images: int
    classes: list[str]
    stages: dict[str, dict[str, Any]]
    """By stage, the student first: counts, and the confusion matrix (see `confusion`)."""
    charts: list[dict[str, Any]]
    images: list[dict[str, Any]]
    """Those with the most errors of the first stage, then of the second, in that order."""


def collect_errors(folder: Path, data: DataOptions, num_images: int) -> Errors | None:
    """What is wrong with the predictions that `s4m evaluate` has kept, on validation images if it has those.

    Args:
        folder: of the experiment.
        data: its data.
        num_images: largest number of images that are drawn.

    Returns:
        None before the first evaluation.

    Raises:
        UserError: if the ground truth changed since, or what `s4m evaluate` has kept is damaged.
    """
    split, results = _kept_results(folder)
    if not results:
        return None
    annotations, images_root = data.split(split)
    truth = load_coco(annotations, images_root)
    measured_on = {result.get("conditions", {}).get("annotations") for result in results.values()}
    if measured_on != {file_hash(annotations)}:
        raise UserError(f"{annotations} changed since the predictions were evaluated; evaluate again")
    found = {
        stage: find_errors(truth, _predictions(predictions_file(folder / stage, split)))
        for stage in sorted(results, key=(STUDENT, TEACHER).index)
    }
    return Errors(
        split=split,
        min_score=MIN_SCORE,
        num_images=len(truth.images),
        classes=truth.class_names,
        stages={stage: _counts(truth, errors) for stage, errors in found.items()},
        charts=[dataclasses.asdict(chart) for chart in _curves(folder, split, list(found))],
        images=_drawn_images(truth, found, min(num_images, MAX_IMAGES)),
    )


def _kept_results(folder: Path) -> tuple[Split, Results]:
    splits: tuple[Split, ...] = ("val", "test")
    for split in splits:
        results = {
            stage: result
            for stage, result in current_results(folder, split).items()
            if stage in (STUDENT, TEACHER)
            and predictions_file(folder / stage, split).is_file()
            and matches_file(folder / stage, split).is_file()
        }
        if results:
            break
    return split, results


def _predictions(path: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}\nDelete it, and evaluate again with `s4m evaluate`."
        ) from error
    return found


def _counts(truth: CocoData, errors: Sequence[ImageErrors]) -> dict[str, Any]:
    """Numbers of objects and predictions, of errors by kind, and of objects and misses by size."""
    kinds = [found.kind(place) for found in errors for place in range(len(found.predictions))]
    areas = np.array([a["area"] for found in errors for a in found.objects], float)
    missed = np.zeros(len(areas), bool)
    start = 0
    for found in errors:
        missed[start + found.missed] = True
        start += len(found.objects)
    size = np.digitize(areas, [32**2, 96**2])
    return {
        "objects": len(areas),
        "predictions": len(kinds) - kinds.count("crowd"),
        "missed": int(missed.sum()),
        **{name: kinds.count(name) for name in _WRONG},
        "missed by size": [[int(missed[size == s].sum()), int((size == s).sum())] for s in range(3)],
        "confusion": confusion(truth, errors).tolist(),
    }


def _curves(folder: Path, split: Split, stages: Sequence[str]) -> list[Chart]:
    matches = {stage: Matches.load(matches_file(folder / stage, split)) for stage in stages}
    return [
        Chart(
            f"Precision by recall, IoU {iou}",
            "%",
            [
                Series(stage, list(enumerate(kept.precision_curve(iou).round(2).tolist())))
                for stage, kept in matches.items()
            ],
            "recall in percent",
        )
        for iou in _CURVE_IOUS
    ]


def _drawn_images(
    truth: CocoData, found: Mapping[str, Sequence[ImageErrors]], count: int
) -> list[dict[str, Any]]:
    """Photos and outlines of the images with the most errors; those that cannot be read are left out."""
    first = next(iter(found.values()))
    errors_of = [[-errors[place].num_errors for errors in found.values()] for place in range(len(first))]
    worst = sorted(range(len(first)), key=errors_of.__getitem__)[:count]
    labels = {category.id: category.label for category in truth.categories}
    max_chars = MAX_OUTLINE_CHARS // max(1, count * (len(found) + 1) * MAX_OBJECTS)
    drawn = []
    for place in worst:
        image = first[place].image
        try:
            pixels, _ = read_rgb(image.path)
        except ImageError:
            continue
        drawn.append(
            {
                "name": image.file_name,
                "width": image.width,
                "height": image.height,
                "frame": grid_size(image.height, image.width),
                "photo": data_uri(pixels, side_px=PHOTO_SIDE_PX, max_bytes=MAX_PHOTO_BYTES // count),
                "truth": [
                    {
                        "label": labels[entry["category_id"]],
                        "path": _outline(entry, image.height, image.width, max_chars),
                    }
                    for entry in first[place].objects[:MAX_OBJECTS]
                ],
                "stages": {
                    stage: _of_stage(errors[place], labels, max_chars) for stage, errors in found.items()
                },
            }
        )
    return drawn


def _of_stage(found: ImageErrors, labels: Mapping[int, int], max_chars: int) -> dict[str, Any]:
    kinds = [found.kind(place) for place in range(len(found.predictions))]
    height, width = found.image.height, found.image.width
    return {
        "missed": found.missed.tolist(),
        **{name: kinds.count(name) for name in _WRONG},
        "predictions": [
            {
                "label": labels[prediction["category_id"]],
                "score": prediction["score"],
                "kind": kind,
                "path": _outline(prediction, height, width, max_chars),
            }
            for prediction, kind in zip(found.predictions[:MAX_OBJECTS], kinds, strict=False)
        ],
    }


def _outline(entry: Mapping[str, Any], height: int, width: int, max_chars: int) -> str:
    mask: NDArray[np.uint8] = coco_mask.decode(run_lengths(entry["segmentation"], height, width))
    return outline(mask.astype(bool), max(60, max_chars))
