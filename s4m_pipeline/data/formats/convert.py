"""Any of the formats to COCO JSON, and which format a path is of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s4m_cache.coco import write_coco
from s4m_cache.limits import MAX_PIXELS
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.cityscapes.convert import convert as convert_cityscapes
from s4m_pipeline.data.cityscapes.layout import ANNOTATIONS, PHOTOS
from s4m_pipeline.data.folder import image_files
from s4m_pipeline.data.formats.label_images import read_label_images
from s4m_pipeline.data.formats.labelme import read_labelme
from s4m_pipeline.data.formats.reading import ReadLabels
from s4m_pipeline.data.formats.yolo import DATA, read_yolo

Kind = Literal["coco", "yolo", "labelme", "label-images", "cityscapes"]
NAMES: dict[Kind, str] = {
    "coco": "COCO JSON",
    "yolo": "YOLO segmentation",
    "labelme": "LabelMe",
    "label-images": "label images",
    "cityscapes": "Cityscapes",
}


@dataclass(frozen=True)
class Converted:
    """A COCO JSON that was made from a different format."""

    json_path: Path
    images: Path
    """Folder that its file names are relative to."""
    summary: str
    """One line: what was taken."""


def kind_of(path: Path) -> Kind:
    """The format of annotations, from what is in the file or folder.

    Raises:
        UserError: if it is none of them.
    """
    if path.is_file():
        return "yolo" if path.suffix in (".yaml", ".yml") else "coco"
    if all((path / name).is_dir() for name in (PHOTOS, ANNOTATIONS)):
        return "cityscapes"
    if (path / DATA).is_file():
        return "yolo"
    if any(b'"shapes"' in file.read_bytes() for file in path.rglob("*.json")):
        return "labelme"
    if path.is_dir() and next(image_files(path), None):
        return "label-images"
    raise UserError(
        f"{path}: no annotations found.\nExpected a COCO JSON file, YOLO's {DATA} or its folder, a folder of "
        "LabelMe's JSON files, a folder of label images, or the folder of Cityscapes."
    )


def convert(
    kind: Kind, source: Path, json_path: Path, images: Path, max_pixels: int = MAX_PIXELS
) -> Converted:
    """Write annotations of any other format as COCO JSON with file names relative to `images`.

    Raises:
        UserError: if they cannot be used.
    """
    if kind == "cityscapes":
        done = convert_cityscapes(source, json_path.parent, max_pixels=max_pixels)[0]
        summary = f"{source}: {NAMES[kind]}, {done.images} images, {done.instances} objects"
        return Converted(done.json_path, source / PHOTOS / done.json_path.stem, summary)
    if kind == "yolo":
        read = read_yolo(source, images, max_pixels=max_pixels)
    elif kind == "labelme":
        read = read_labelme(source, images, max_pixels)
    else:
        read = read_label_images(source, images, max_pixels)
    return write(kind, source, read, json_path)


def write(kind: Kind, source: Path, read: ReadLabels, json_path: Path) -> Converted:
    """Write what was read as COCO JSON.

    Raises:
        UserError: if the file cannot be written.
    """
    try:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        write_coco(read.labeled, json_path, f"converted from {NAMES[kind]}", scored=False)
    except OSError as error:
        raise UserError(f"{json_path}: cannot be written ({error.strerror}).") from error
    content = f"{NAMES[kind]}, {len(read.labeled)} images, {read.num_objects} objects"
    return Converted(json_path, read.images, "; ".join([f"{source}: {content}", *read.notes]))
