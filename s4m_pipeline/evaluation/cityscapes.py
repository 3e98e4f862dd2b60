"""Instance AP of Cityscapes: predictions in the benchmark's files, scored by the benchmark's own evaluator.

docs/cityscapes.md says how this AP differs from COCO's.
"""

import copy
import dataclasses
import json
import math
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from cache.atomic import write_text
from s4m_pipeline.data.cityscapes.labels import INSTANCE_CLASSES
from s4m_pipeline.data.cityscapes.layout import HOW_TO_GET, INSTANCE_IDS_ENDING, frame_key
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.findings import first_names
from s4m_pipeline.errors import UserError
from s4m_pipeline.parallel import parallel_map

RECORD = "results.json"


@dataclass(frozen=True)
class CityscapesAP:
    """AP in percent as the benchmark defines it; None where there is no object."""

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
    strange = [name for name in truth.class_names if name not in INSTANCE_CLASSES]
    if strange:
        raise UserError(
            f"{truth.json_path}: the Cityscapes benchmark has no class {first_names(strange)}. "
            f"It has {', '.join(INSTANCE_CLASSES)}."
        )
    keys = {image.id: frame_key(image.file_name) for image in truth.images}
    nameless = [image.file_name for image in truth.images if keys[image.id] is None]
    if nameless:
        raise UserError(
            f"{truth.json_path}: {len(nameless)} photos are not named as in Cityscapes "
            f"(CITY/CITY_000000_000019_leftImg8bit.png): {first_names(nameless)}."
        )
    paths = {
        image_id: annotations / str(key).partition("_")[0] / f"{key}{INSTANCE_IDS_ENDING}"
        for image_id, key in keys.items()
    }
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise UserError(
            f"{annotations}: {len(missing)} of {len(paths)} annotations that the benchmark reads are not "
            f"there: {first_names(missing)}.\n{HOW_TO_GET}"
        )
    return paths


def claim_results(folder: Path) -> None:
    """Make `folder` an empty one for results, deleting those of an earlier evaluation.

    Raises:
        UserError: it holds something else, or cannot be written.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            if not (folder / RECORD).is_file():
                raise UserError(f"{folder} holds other files than results. Name another folder.")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / RECORD, "{}\n")  # whose folder this is; the figures follow
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}). Name another folder.") from error


def record_result(folder: Path, found: CityscapesAP) -> None:
    """Keep the figures beside the results that they belong to."""
    write_text(folder / RECORD, json.dumps(dataclasses.asdict(found), indent=1) + "\n")


def write_results(
    folder: Path, truth: CocoData, predictions: Sequence[Mapping[str, Any]], *, jobs: int = 1
) -> dict[int, Path]:
    """Write predictions as the benchmark wants them: a text file for each image, a binary PNG per instance.

    Args:
        folder: an empty folder (`claim_results`).
        predictions: COCO results with `image_id`, `category_id`, `score` and `segmentation` (compressed RLE).
        jobs: processes that write.

    Returns:
        The text file of each image id; images without predictions have an empty one.
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
    progress: Callable[[], None] = lambda: None,
) -> CityscapesAP:
    """Score results with the benchmark's evaluator.

    Its own functions do all the work in their own order. Only its main function is not called: that one keeps
    ground truth in a file of the installed package, even when the data set has changed, and writes to the
    current folder.

    Args:
        annotations: `instanceIds` images.
        results: the text file for each of them (`write_results`); masks are of the annotation's size.
        jobs: processes that compare images.
        progress: called after each image.

    Raises:
        UserError: the evaluator is not installed, or refuses a file.
    """
    evaluator = _evaluator()
    matches: dict[str, Any] = {}
    pairs = [(path, result.resolve()) for path, result in zip(annotations, results, strict=True)]
    folder = pairs[0][1].parent
    for _, found in parallel_map(partial(_match, folder=folder), pairs, jobs):
        matches |= found
        progress()
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
    """The evaluator's default settings, as a copy, for results below `folder`."""
    arguments = copy.copy(evaluator.args)
    arguments.quiet = True
    arguments.predictionPath = str(folder)
    evaluator.setInstanceLabels(arguments)
    return arguments


def _match(pair: tuple[Path, Path], folder: Path) -> dict[str, Any]:
    """Overlaps of one image's predictions and objects, keyed as the evaluator keys them."""
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
        raise UserError(f"{result}: the Cityscapes evaluator refused it; its reason is above.") from error
    return matches


def _class_ap(evaluator: ModuleType, matches: dict[str, Any], name: str, overlap: float) -> float:
    """AP of one class at one IoU threshold, as a share; NaN where the class has no object."""
    arguments = copy.copy(evaluator.args)
    arguments.instLabels, arguments.overlaps = [name], np.array([overlap])
    try:
        return float(evaluator.evaluateMatches(matches, arguments)[0, 0, 0])
    except IndexError:
        # The evaluator fails on a class with objects of which none is found while all its predictions lie in
        # regions to be ignored: no true and no false positive. Nothing found is an AP of 0.
        return 0.0


def _percent(share: float) -> float | None:
    value = 100 * float(share)
    return None if math.isnan(value) else round(value, 4)
