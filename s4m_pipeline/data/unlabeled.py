"""The unlabelled images: a COCO JSON whose annotations nothing is trained on, or a folder."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s4m_pipeline.data.coco import CocoData, CocoImage, load_coco
from s4m_pipeline.data.folder import image_files
from s4m_pipeline.data.images import ImageError, read_header
from s4m_pipeline.errors import UserError


@dataclass(frozen=True)
class UnlabeledImages:
    """Images to be pseudo-labelled."""

    source: Path
    images_root: Path
    """Folder that the file names of a JSON are relative to."""
    images: tuple[CocoImage, ...]
    """In id order; a file whose header cannot be read has the size 0 x 0."""
    digest: str
    """Of all ids and file names: labels of lists that differ in it must not mix."""
    annotated: CocoData | None
    """The JSON's annotations if it has any: to measure labels by, never to learn from."""


def load_unlabeled(source: Path, images_root: Path) -> UnlabeledImages:
    """Read the list of unlabelled images; image files are not decoded.

    Args:
        source: COCO JSON, or a folder, whose images are then numbered from 1 in the order of their names.
        images_root: folder that the file names of a JSON are relative to.

    Raises:
        UserError: no such file or folder, no image in it, or one message with all errors of the JSON.
    """
    if not source.exists():
        raise UserError(
            f"data.unlabeled: {source} is not there. Expected a COCO JSON of the unlabelled images or a "
            "folder of images. `s4m data split` makes one of a labelled data set."
        )
    if source.is_dir():
        images = _of_folder(source)
        return UnlabeledImages(source, images_root, images, _digest(images), None)
    data = load_coco(source, images_root, labelled=False)
    return UnlabeledImages(
        source, images_root, data.images, _digest(data.images), data if data.usable else None
    )


def _of_folder(folder: Path) -> tuple[CocoImage, ...]:
    images = []
    for number, (name, path) in enumerate(image_files(folder), start=1):
        try:
            header = read_header(path)
            width, height = header.width, header.height
        except ImageError:  # it keeps its number, so that mending or losing a file renumbers no other
            width = height = 0
        images.append(CocoImage(number, name, width, height, path))
    if not images:
        raise UserError(f"data.unlabeled: {folder} holds no images. Expected image files below it.")
    return tuple(images)


def _digest(images: Sequence[CocoImage]) -> str:
    lines = "".join(f"{image.id} {image.file_name}\n" for image in images)
    return f"sha256:{hashlib.sha256(lines.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
