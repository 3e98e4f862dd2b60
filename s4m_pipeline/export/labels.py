"""Where the pseudo-labels of an experiment are, and which files they belong to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.coco import read_file_names
from cache.generation import Generation
from cache.generations import generations
from cache.reader import CacheReader
from s4m_pipeline.data.folder import image_files
from s4m_pipeline.data.unlabeled import load_unlabeled
from s4m_pipeline.errors import UserError
from s4m_pipeline.layout import CACHE
from s4m_pipeline.options.groups import DataOptions


def read_pseudo_labels(folder: str | Path, generation: int | None = None) -> CacheReader:
    """Open the pseudo-labels of an experiment.

    Args:
        folder: `work_dirs/<experiment>`, or the cache inside it.
        generation: its number; None: the published one.

    Returns:
        A reader, to be closed or used as a context: `image_ids`, `read(image_id)`, `generation.spec.classes`.

    Raises:
        UserError: if there is no cache.
        CacheError: if the generation is not there or, asked for as the published one, not complete.
    """
    folder = Path(folder)
    root = next((path for path in (folder, folder / CACHE) if generations(path)), None)
    if root is None:
        raise UserError(
            f"{folder}: no pseudo-labels are there.\n"
            "Expected the folder of an experiment after `s4m refine`, or its cache."
        )
    return CacheReader(Generation(root, generation)) if generation else CacheReader.current(root)


def named_files(source: Path) -> dict[int, str]:
    """File names by image id of a COCO JSON, or of a folder as `s4m refine` numbers it.

    Raises:
        UserError: if it is neither, or a name leads out of the image folder.
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


def recorded_files(reader: CacheReader, config: Mapping[str, Any]) -> dict[int, str] | None:
    """File names by image id from the data that a config names, if the labels were made of these very images.

    Args:
        config: an experiment's config as its run.json keeps it.
    """
    data = DataOptions(**config["data"])
    if data.unlabeled is None:
        return None
    source, root = data.path(data.unlabeled), data.path(data.train_images)
    if not source.exists():
        return None
    unlabeled = load_unlabeled(source, root)
    if unlabeled.digest != reader.generation.spec.fingerprint.get("image names"):
        return None
    return {image.id: image.file_name for image in unlabeled.images}
