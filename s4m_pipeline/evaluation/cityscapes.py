"""Instance AP of Cityscapes: predictions in the benchmark's files, scored by the benchmark's own evaluator.

docs/cityscapes.md says how this AP differs from COCO's.
"""

import copy
import dataclasses
import json
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from s4m_cache.atomic import write_text
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.parallel import parallel_map
from s4m_pipeline.core.progress import track
from s4m_pipeline.data.cityscapes.labels import INSTANCE_CLASSES
from s4m_pipeline.data.cityscapes.layout import HOW_TO_GET, INSTANCE_IDS_ENDING, frame_key
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.findings import first_names

RECORD = "results.json"


@dataclass(frozen=True)
class CityscapesAP:
    """Average precision (AP) in percent as the benchmark defines it; None without objects."""

    AP: float | None
    """Mean over classes and the IoU thresholds 0.50, 0.55, ..., 0.95."""
    AP50: float | None
    per_class: dict[str, float | None]
    per_class_AP50: dict[str, float | None]


def require_benchmark(truth: CocoData, annotations: Path) -> dict[int, Path]:
    """Check, before anything is predicted, that the benchmark can score predictions for `truth`.

    Args:
        annotations: the benchmark's annotations of the split, such as `gtFine/val`.

    Returns:
        The `instanceIds` image of each image id.

    Raises:
        UserError: the evaluator is not installed, or classes, names or annotations are not Cityscapes'.
    """
    _evaluator()
    unknown = [name for name in truth.class_names if name not in INSTANCE_CLASSES]
    if unknown:
        raise UserError(
            f"{truth.json_path}: the Cityscapes benchmark has no class {first_names(unknown)}. "
            f"Expected some of {', '.join(INSTANCE_CLASSES)}."
        )
    keys = {image.id: frame_key(image.file_name) for image in truth.images}
    misnamed = [image.file_name for image in truth.images if keys[image.id] is None]
    if misnamed:
        raise UserError(
            f"{truth.json_path}: {len(misnamed)} photos are not named as in Cityscapes "
            f"(CITY/CITY_000000_000019_leftImg8bit.png): {first_names(misnamed)}."
        )
    paths = {
        image_id: annotations / str(key).partition("_")[0] / f"{key}{INSTANCE_IDS_ENDING}"
        for image_id, key in keys.items()
    }
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise UserError(
            f"{annotations}: {len(missing)} of {len(paths)} annotations that the benchmark reads are "
            f"missing: {first_names(missing)}.\n{HOW_TO_GET}"
        )
    return paths


def claim_results(folder: Path) -> None:
    """Create an empty folder for results; the results of an earlier evaluation are deleted.

    Raises:
        UserError: it contains other files, or cannot be written.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            if not (folder / RECORD).is_file():
                raise UserError(f"{folder} contains files that are not results. Use a different folder.")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / RECORD, "{}\n")  # marks a folder of results; `record_result` adds the figures
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}). Use a different folder.") from error


def record_result(folder: Path, found: CityscapesAP) -> None:
    """Write the figures beside the results that they belong to."""
    write_text(folder / RECORD, json.dumps(dataclasses.asdict(found), indent=1) + "\n")


def write_results(
    folder: Path, truth: CocoData, predictions: Sequence[Mapping[str, Any]], *, jobs: int = 1
) -> dict[int, Path]:
    """Write predictions in the benchmark's format: a text file per image, a binary PNG per instance.

    Args:
        folder: an empty folder (`claim_results`).
        predictions: COCO results with `image_id`, `category_id`, `score` and `segmentation` (compressed RLE).
        jobs: number of processes.

    Returns:
        The text file of each image id; it is empty for images without predictions.
    """
    label_ids = {category.id: INSTANCE_CLASSES[category.name] for category in truth.categories}
    instances: dict[int, list[_Instance]] = {image.id: [] for image in truth.images}
    for item in predictions:
        instance = (label_ids[item["category_id"]], float(item["score"]), item["segmentation"])
        instances[item["image_id"]].append(instance)
    (folder / "masks").mkdir()
    images = [(f"{frame_key(image.file_name)}", instances[image.id]) for image in truth.images]
    written = parallel_map(partial(_write_image, folder=folder), images, jobs)
    return {image.id: path for image, (_, path) in zip(truth.images, written, strict=True)}


_Instance = tuple[int, float, dict[str, Any]]
"""Label id, score and compressed RLE of one prediction."""


def _write_image(image: tuple[str, list[_Instance]], folder: Path) -> Path:
    key, instances = image
    lines = []
    for place, (label_id, score, rle) in enumerate(instances):
        name = f"masks/{key}_{place:03d}.png"
        mask = np.ascontiguousarray(coco_mask.decode(rle))
        encoded, content = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_BILEVEL, 1])
        assert encoded
        (folder / name).write_bytes(content.tobytes())
        lines.append(f"{name} {label_id} {score!r}\n")
    path = folder / f"{key}_pred.txt"
    path.write_text("".join(lines))
    return path


def benchmark_ap(
    annotations: Sequence[Path],
    results: Sequence[Path],
    *,
    jobs: int = 1,
) -> CityscapesAP:
    """Score results with the benchmark's evaluator.

    The evaluator's own functions are called in its own order, but not its main function, which caches ground
    truth in a file of the installed package, even if the data set changes, and writes to the current folder.

    Args:
        annotations: `instanceIds` images.
        results: the text file for each of them (`write_results`); masks are of the annotation's size.
        jobs: number of processes.

    Raises:
        UserError: the evaluator is not installed, or rejects a file.
    """
    evaluator = _evaluator()
    matches: dict[str, Any] = {}
    pairs = [(path, result.resolve()) for path, result in zip(annotations, results, strict=True)]
    folder = pairs[0][1].parent
    matched = parallel_map(partial(_match, folder=folder), pairs, jobs)
    for _, found in track(matched, len(pairs), "Cityscapes' evaluator"):
        matches |= found
    arguments = _arguments(evaluator, folder)
    classes = list(arguments.instLabels)
    ap_CT = np.array(
        [[_class_ap(evaluator, matches, name, overlap) for overlap in arguments.overlaps] for name in classes]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing, where no class has an object
        averages = evaluator.computeAverages(ap_CT[None], arguments)
    per_class = averages["classes"]
    return CityscapesAP(
        AP=_percent(averages["allAp"]),
        AP50=_percent(averages["allAp50%"]),
        per_class={name: _percent(per_class[name]["ap"]) for name in classes},
        per_class_AP50={name: _percent(per_class[name]["ap50%"]) for name in classes},
    )


def _evaluator() -> ModuleType:
    try:
        from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling
    except ImportError as error:
        raise UserError(
            f"The Cityscapes benchmark needs its own evaluator ({error}).\n"
            "Install it with: pip install 's4m-pipeline[cityscapes]'"
        ) from error
    return evalInstanceLevelSemanticLabeling


def _arguments(evaluator: ModuleType, folder: Path) -> Any:
    """A copy of the evaluator's default settings, for results in `folder`."""
    arguments = copy.copy(evaluator.args)
    arguments.quiet = True
    arguments.predictionPath = str(folder)
    evaluator.setInstanceLabels(arguments)
    return arguments


def _match(pair: tuple[Path, Path], folder: Path) -> dict[str, Any]:
    """Overlaps of one image's predictions and objects, with the evaluator's keys."""
    evaluator = _evaluator()
    annotation, result = map(str, pair)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it calls numpy.in1d
            objects = evaluator.instances2dict([annotation])
            matches: dict[str, Any] = evaluator.matchGtWithPreds(
                [result], [annotation], objects, _arguments(evaluator, folder)
            )
    except SystemExit as error:
        raise UserError(f"{result}: rejected by the Cityscapes evaluator; see its message above.") from error
    return matches


def _class_ap(evaluator: ModuleType, matches: dict[str, Any], name: str, overlap: float) -> float:
    """AP of one class at one IoU threshold, from 0 to 1; NaN if the class has no object."""
    arguments = copy.copy(evaluator.args)
    arguments.instLabels, arguments.overlaps = [name], np.array([overlap])
    try:
        return float(evaluator.evaluateMatches(matches, arguments)[0, 0, 0])
    except IndexError:
        # The evaluator fails if a class has objects but no true positive, and all its predictions are in
        # ignored regions, so that there is no false positive either. Its AP is 0.
        return 0.0


def _percent(fraction: float) -> float | None:
    value = 100 * float(fraction)
    return None if math.isnan(value) else round(value, 4)
