"""The pseudo-labels of an experiment, and the file names of their images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from s4m_cache.coco import LabeledImages, read_coco, read_file_names
from s4m_cache.generation import Generation
from s4m_cache.generations import generations
from s4m_cache.reader import CacheReader
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import PREDICTED_IMAGES, PREDICTIONS
from s4m_pipeline.data.folder import image_files
from s4m_pipeline.data.unlabeled import unlabeled_of
from s4m_pipeline.experiment.cache_place import cache_of
from s4m_pipeline.experiment.recorded import experiment_data


def read_pseudo_labels(source: str | Path, generation: int | None = None) -> CacheReader:
    """Open the pseudo-labels of an experiment.

    Args:
        source: `work_dirs/<experiment>`, or a cache: its folder or address (`s3://bucket/folder`).
        generation: its number; None: the published one.

    Returns:
        A reader, to be closed or used as a context: `image_ids`, `read(image_id)`, `generation.spec.classes`.

    Raises:
        UserError: if there is no cache.
        CacheError: if the generation does not exist, or none is published.
    """
    root = cache_of(source)
    if not generations(root):
        raise UserError(
            f"{source}: no pseudo-labels found{'' if str(root) == str(source) else f', none in {root}'}.\n"
            "Expected the folder of an experiment after `s4m refine`, or a cache: its folder or address."
        )
    return CacheReader(Generation(root, generation)) if generation else CacheReader.current(root)


def read_predictions(source: Path) -> LabeledImages | None:
    """The annotations of a COCO JSON, or the predictions of `s4m predict` in a folder; None for others.

    Raises:
        CacheError: if a COCO file is faulty.
        UserError: if the predictions are.
    """
    if source.is_file():
        return read_coco(source).labeled
    if not (source / PREDICTIONS).is_file():
        return None
    listed = read_coco(source / PREDICTED_IMAGES)
    found: dict[int, list[dict[str, Any]]] = {}
    try:
        for result in json.loads((source / PREDICTIONS).read_bytes()):
            found.setdefault(result["image_id"], []).append(result)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{source / PREDICTIONS}: not readable ({error!r}).\nExpected a file that `s4m predict` wrote."
        ) from error
    return replace(listed, annotations=found).labeled


def named_files(source: Path) -> dict[int, str]:
    """File names by image id of a COCO JSON, or of a folder as `s4m refine` numbers it.

    Raises:
        UserError: if it is neither, or a name leads outside the image folder.
        CacheError: if the JSON is faulty.
    """
    if source.is_dir():
        return {number: name for number, (name, _) in enumerate(image_files(source), start=1)}
    names = read_file_names(source)
    if outside := [name for name in names.values() if name.startswith("/") or ".." in Path(name).parts]:
        raise UserError(
            f"{source}: file names that are not below the image folder: {', '.join(outside[:5])}.\n"
            "Expected relative names without `..`."
        )
    return names


def recorded_files(reader: CacheReader, experiment: Path) -> dict[int, str] | None:
    """File names by image id from the data that an experiment has recorded, if the labels were made from
    these images."""
    try:
        data = experiment_data(experiment)
    except UserError:  # nothing recorded, or by a different version
        return None
    if data.unlabeled is None or not data.path(data.unlabeled).exists():
        return None
    unlabeled = unlabeled_of(data)
    if unlabeled.digest != reader.generation.spec.fingerprint.get("image names"):
        return None
    return {image.id: image.file_name for image in unlabeled.images}
