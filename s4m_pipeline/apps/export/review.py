"""A labeling task: images with their pseudo-labels as pre-drawn masks, to be corrected in a labeling tool."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from s4m_cache.atomic import atomic_folder
from s4m_cache.coco import LabeledImages, write_coco
from s4m_cache.reader import CacheReader
from s4m_cache.records import ImageLabels
from s4m_cache.storage import is_remote
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.locations import read_remote
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.findings import first_names
from s4m_pipeline.data.formats.labelme import write_labelme
from s4m_pipeline.data.splits import choose_listed
from s4m_pipeline.data.unlabeled import UnlabeledImages

ReviewFormat = Literal["coco", "labelme"]
REVIEW_IMAGES, REVIEW_JSON = "images", "annotations.json"


def listed_images(unlabeled: UnlabeledImages, names: Sequence[str], source: Path) -> list[CocoImage]:
    """The unlabeled images that a list names; see `choose_listed`.

    Raises:
        UserError: if names match none or several of them.
    """
    chosen = set(choose_listed([image.file_name for image in unlabeled.images], names, source))
    return [image for image in unlabeled.images if image.file_name in chosen]


def export_review(reader: CacheReader, images: Sequence[CocoImage], out: Path, to: ReviewFormat) -> int:
    """Write a new folder with copies of the images, and their pseudo-labels.

    Labels that are ignored, because neither mask is likely to be right, are left out.

    Args:
        to: coco: one file, whose category ids count from 1; labelme: a JSON file beside each image.

    Returns:
        Number of pre-drawn objects.

    Raises:
        UserError: if image files are missing.
        OSError: if the folder cannot be written.
    """
    if missing := [image.file_name for image in images if not image.path.is_file()]:
        raise UserError(f"{len(missing)} image files are missing: {first_names(missing)}.\nRestore them.")

    def kept(image_id: int) -> ImageLabels:
        labels = reader.read(image_id)
        return replace(labels, instances=labels.instances.kept)

    classes = reader.generation.spec.classes
    names = {image.id: image.file_name for image in images}
    labeled = LabeledImages(classes, range(1, len(classes) + 1), names, kept)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as folder:
        for image in images:
            copy = folder / REVIEW_IMAGES / image.file_name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if is_remote(image.path):
                copy.write_bytes(read_remote(image.path))
            else:
                shutil.copyfile(image.path, copy)
        if to == "labelme":
            return write_labelme(labeled, folder / REVIEW_IMAGES)
        return write_coco(labeled, folder / REVIEW_JSON, "masks to correct", scored=False)
