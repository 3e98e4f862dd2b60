"""The unlabeled images of an experiment: a COCO JSON, whose annotations are never trained on, or a folder."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from s4m_cache.errors import CacheError
from s4m_cache.generation import Generation
from s4m_cache.storage import is_remote
from s4m_pipeline.config.groups import DataOptions
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.coco_entries import CocoImage, is_image, read_document
from s4m_pipeline.data.folder import image_files
from s4m_pipeline.data.images import ImageError, read_header


@dataclass(frozen=True)
class UnlabeledImages:
    """Images to pseudo-label."""

    source: Path
    images_root: Path
    """Folder that the file names of a JSON are relative to."""
    images: tuple[CocoImage, ...]
    """In id order; size 0 x 0 if the header of the file cannot be read."""
    digest: str
    """Hash of all ids and file names; part of the fingerprint of the labels."""
    annotated: CocoData | None
    """The JSON with its annotations, if it has any: for evaluation, never for training."""


def load_unlabeled(source: Path, images_root: Path) -> UnlabeledImages:
    """Read the list of unlabeled images; image files are not decoded.

    Args:
        source: COCO JSON, or a folder, whose images are numbered from 1 in the order of their names.
        images_root: folder that the file names of a JSON are relative to.

    Raises:
        UserError: no such file or folder, no image in it, or one message with all errors of the JSON.
    """
    _require_source(source)
    if source.is_dir():
        images, annotated = _read_folder(source), None
    else:
        data = load_coco(source, images_root, labeled=False)
        images, annotated = data.images, data if data.usable else None
    digest = names_digest((image.id, image.file_name) for image in images)
    return UnlabeledImages(source, images_root, images, digest, annotated)


def unlabeled_of(data: DataOptions) -> UnlabeledImages:
    """The unlabeled images of an experiment.

    Raises:
        UserError: if it has none; and as `load_unlabeled`.
    """
    if data.unlabeled is None:
        raise UserError(
            "The config has no data.unlabeled.\nSet it to a COCO JSON of the unlabeled images or a folder; "
            "`s4m data split` makes such a file."
        )
    return load_unlabeled(data.path(data.unlabeled), data.path(data.train_images))


def unlabeled_names(source: Path) -> list[tuple[int, str]]:
    """Ids and names of the images, as in `load_unlabeled` but without validation, which is faster.

    Raises:
        UserError: no such file or folder, or not a COCO JSON.
    """
    _require_source(source)
    if source.is_dir():
        return [(number, name) for number, (name, _) in enumerate(image_files(source), start=1)]
    document, _ = read_document(source)
    return sorted((entry["id"], entry["file_name"]) for entry in document["images"] if is_image(entry))


def names_digest(names: Iterable[tuple[int, str]]) -> str:
    """A hash of ids and names, in their order."""
    lines = "".join(f"{number} {name}\n" for number, name in names)
    return f"sha256:{hashlib.sha256(lines.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def require_same_list(generation: Generation, unlabeled: UnlabeledImages) -> None:
    """Refuse images that are not those the labels were made for.

    Raises:
        CacheError: if the list of ids and file names differs.
    """
    recorded = generation.spec.fingerprint.get("image names")
    if recorded is not None and recorded != unlabeled.digest:
        raise CacheError(
            f"{generation.path} was made for a different list of images than {unlabeled.source} lists now"
        )


def _require_source(source: Path) -> None:
    if is_remote(source) and source.is_dir():
        raise UserError(f"data.unlabeled: {source} is a folder of an object store. Expected a COCO JSON.")
    if not source.exists():
        raise UserError(
            f"data.unlabeled: {source} does not exist. Expected a COCO JSON of the unlabeled images or a "
            "folder of images. `s4m data split` makes one from a labeled data set."
        )


def _read_folder(folder: Path) -> tuple[CocoImage, ...]:
    images = []
    for number, (name, path) in enumerate(image_files(folder), start=1):
        try:
            header = read_header(path)
            width, height = header.width, header.height
        except ImageError:  # it keeps its id, so that fixing or losing a file does not renumber the rest
            width = height = 0
        images.append(CocoImage(number, name, width, height, path))
    if not images:
        raise UserError(f"data.unlabeled: {folder} contains no images. Expected image files below it.")
    return tuple(images)
