"""Label images: 0 is background, every other value one object; as of Cellpose, Fiji, scikit-image, napari."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from s4m_cache.coco import LabeledImages
from s4m_cache.limits import MAX_PIXELS
from s4m_cache.masks import Masks
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.folder import image_files
from s4m_pipeline.data.formats.naming import named_after, with_extension
from s4m_pipeline.data.formats.reading import Collector, FormatError, ReadLabels

CLASSES = "classes.csv"
"""The class of each object: columns file, id, class."""
ONE_CLASS = "object"

_SUFFIXES = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_instances", "_seg")
"""What programs append to the image's name."""
_ADVICE = (
    "Expected a PNG or TIFF for each image, with its name and size (`_masks`, `_labels` and the like may be "
    "appended), one whole number per pixel: 0 for background, the same number for all pixels of an object."
)


def read_label_images(source: Path, images: Path, max_pixels: int = MAX_PIXELS) -> ReadLabels:
    """Read a folder of label images.

    The classes are those of classes.csv (columns file, id, class) in the folder; else the names of its
    subfolders, if these hold label images of the same images; else there is one.

    Args:
        source: the label images, at any depth.
        images: folder of the images; those without a label image are left out.
        max_pixels: largest accepted width x height.

    Raises:
        UserError: one message with all faults.
    """
    collector = Collector(source, images, max_pixels)
    photos = {with_extension(name, ""): images / name for name, _ in image_files(images)}
    files = [name for name, _ in image_files(source)]
    if source.resolve() == images.resolve():  # both kinds in one folder: known by what is appended
        files = [name for name in files if _image_key(name, photos) != with_extension(name, "")]
        own = {with_extension(name, "") for name in files}
        photos = {key: path for key, path in photos.items() if key not in own}
    table = _read_classes(source / CLASSES)
    below = {name: name.partition("/")[2] for name in files}
    by_folder = table is None and not any(_image_key(name, photos) for name in files)
    by_folder = by_folder and any(_image_key(name, photos) for name in below.values())
    found: dict[str, list[tuple[str, str]]] = {}
    for name in files:
        key = _image_key(below[name] if by_folder else name, photos)
        if key is None:
            collector.fault(name, "no image of this name")
        elif key in found and not by_folder:
            collector.fault(name, f"{found[key][0][0]} is of the same image")
        else:
            found.setdefault(key, []).append((name, name.partition("/")[0] if by_folder else ONE_CLASS))
    seen: set[int] = set()
    for key, labeled in sorted(found.items()):
        path = photos[key]
        try:
            size_hw = collector.size(path)
            names: list[str] = []
            parts = []
            for name, class_name in labeled:
                values, masks = _objects(source / name, size_hw)
                names += [class_name if table is None else _listed(table, name, value) for value in values]
                parts.append(masks)
                seen.update(values)
            collector.add_packed(path, size_hw, names, Masks.join(parts))
        except FormatError as error:
            collector.fault(labeled[0][0], str(error))
    if seen == {255}:
        raise UserError(
            f"{source}: all pixels are 0 or 255, so these are binary masks, in which objects cannot be told "
            "apart.\nGive each object a value of its own: `skimage.measure.label` numbers connected parts."
        )
    how = f"of {CLASSES}" if table is not None else "by folder" if by_folder else f"one, {ONE_CLASS!r}"
    notes = [f"classes: {how}"]
    if left_out := len(photos) - len(found):
        notes.append(f"{left_out} images without a label image are left out")
    return collector.done(None, _ADVICE, notes)


def write_label_images(labeled: LabeledImages, folder: Path) -> int:
    """Write a 16-bit PNG for each image, and classes.csv last; returns the number of objects.

    Objects have the values 1, 2, ... where they overlap, the higher score is on top. Ignored instances and
    masks that are covered wholly are left out.

    Raises:
        UserError: if two images would share a file.
        OSError: as the file system reports it.
    """
    files = named_after(labeled.file_names, lambda name: with_extension(name, ".png"))
    rows = []
    for image_id, name in files.items():
        labels = labeled.read(image_id)
        kept = labels.instances.kept
        values = np.zeros((labels.height, labels.width), np.uint16)
        crops = kept.masks.crops()
        for index in np.argsort(kept.scores, kind="stable").tolist():
            y0, x0, y1, x1 = kept.masks.boxes[index].tolist()
            values[y0:y1, x0:x1][crops[index]] = index + 1
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
        visible = np.unique(values[values > 0]).tolist()
        rows += [(name, value, labeled.classes[kept.labels[value - 1]]) for value in visible]
    with (folder / CLASSES).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "id", "class"), *rows])
    return len(rows)


def _objects(path: Path, size_hw: tuple[int, int]) -> tuple[list[int], Masks]:
    """Values above 0 of a label image, and their masks."""
    values = _read_values(path)
    if values.shape != size_hw:
        size = f"{values.shape[1]} x {values.shape[0]}"
        raise FormatError(f"{size} pixels, but the image has {size_hw[1]} x {size_hw[0]}")
    found, places = np.unique(values, return_inverse=True)
    if found[0] < 0:
        raise FormatError(f"negative value {found[0]}")
    first = int(found[0] == 0)
    numbered = places.reshape(values.shape) + 1 - first  # background 0, objects 1, 2, ...
    slices = ndimage.find_objects(numbered)
    crops = [numbered[where] == number for number, where in enumerate(slices, 1)]
    origins = [(where[0].start, where[1].start) for where in slices]
    return found[first:].tolist(), Masks.from_crops(crops, origins)


def _read_values(path: Path) -> NDArray[np.int64]:
    """Pixel values (H, W) of a label image: 8-, 16- or 32-bit, palette indices, or whole numbers as float."""
    try:
        with Image.open(path, formats=("PNG", "TIFF")) as image:
            if image.mode == "1":
                raise FormatError("1 bit per pixel: a binary mask, not objects")
            if image.mode not in ("L", "P", "F") and not image.mode.startswith("I"):
                raise FormatError(f"{len(image.getbands())} values per pixel, one expected")
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise FormatError(f"{frames} frames, one expected")
            values = np.asarray(image)
    except FormatError:
        raise
    except Exception as error:  # decoders raise many kinds of exceptions on damaged bytes
        raise FormatError(f"cannot be decoded: {error}") from error
    whole = values.astype(np.int64)
    if values.dtype.kind == "f" and not np.array_equal(whole, values):
        raise FormatError("values that are not whole numbers")
    return whole


def _image_key(name: str, photos: Mapping[str, Path]) -> str | None:
    """The image that a label image belongs to, by its path without extension."""
    stem = with_extension(name, "") if name else ""
    shorter = [stem.removesuffix(suffix) for suffix in _SUFFIXES if stem.endswith(suffix)]
    return next((key for key in (*shorter, stem) if key in photos), None)


def _read_classes(path: Path) -> dict[tuple[str, int], str] | None:
    if not path.exists():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {(row["file"], int(row["id"])): row["class"] for row in csv.DictReader(file)}
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"{path}: not readable as a table with the columns file, id and class ({error!r}).\n"
            "Expected a line for each object: the label image below its folder, its value, its class."
        ) from error


def _listed(table: Mapping[tuple[str, int], str], name: str, value: int) -> str:
    if (name, value) not in table:
        raise FormatError(f"the value {value} has no line in {CLASSES}")
    return table[name, value]
