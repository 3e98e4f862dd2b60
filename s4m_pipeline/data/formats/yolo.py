"""YOLO segmentation text: one line per object, class and outline, scaled to 0..1."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from s4m_cache.coco import LabeledImages
from s4m_cache.limits import MAX_PIXELS
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.folder import image_files
from s4m_pipeline.data.formats.naming import named_after
from s4m_pipeline.data.formats.outlines import fill, outline
from s4m_pipeline.data.formats.reading import Collector, FormatError, ReadLabels

DATA = "data.yaml"
IMAGES = "images"
LIST = "images.txt"
LABELS = "labels"


def read_yolo(
    source: Path, images: Path | None = None, split: str = "train", max_pixels: int = MAX_PIXELS
) -> ReadLabels:
    """Read one split of a data set of Ultralytics, with the masks that Ultralytics fills.

    An image without a label file has no objects, as there.

    Args:
        source: data.yaml, or its folder.
        images: folder that file names will be relative to; None: that of the split's images.
        split: train, val or test.
        max_pixels: largest accepted width x height.

    Raises:
        UserError: one message with all faults.
    """
    path = source / DATA if source.is_dir() else source
    names, places = _read_data_yaml(path, split)
    photos = [photo for place in places for photo in _listed_images(place)]
    collector = Collector(path, images or _shared_folder(places, path), max_pixels)
    without = 0
    for photo in photos:
        labels = label_path(photo)
        try:
            text = labels.read_text(encoding="utf-8-sig") if labels.exists() else ""
            without += not labels.exists()
            size_hw = collector.size(photo)
            rows = [_row(line, names) for line in text.splitlines() if line.strip()]
            masks = (fill(corners * size_hw[::-1], size_hw) for _, corners in rows)
            collector.add(photo, size_hw, [name for name, _ in rows], masks)
        except (FormatError, UnicodeDecodeError) as error:
            collector.fault(labels.name, str(error))
    notes = [f"{without} images without a label file count as images without objects"] if without else []
    return collector.done(
        list(names.values()),
        "Expected lines `class x1 y1 x2 y2 x3 y3 ...`, coordinates from 0 to 1, in labels/ beside images/.",
        [f"split {split}", *notes],
    )


def write_yolo(labeled: LabeledImages, folder: Path) -> int:
    """Write `labels/<image>.txt` for every image, images.txt, and data.yaml last.

    An image without objects has an empty file. Masks without pixels are left out, and ignored instances, for
    which the format has no place. images.txt lists the images in `images`: given that folder instead,
    Ultralytics would treat images without labels as background, and look for labels beside the target of a
    linked folder.

    Args:
        labeled: the images and their labels.
        folder: output folder, created if needed.

    Returns:
        The number of objects.

    Raises:
        UserError: if two images would share a label file.
        OSError: as the file system reports it.
        DamagedError: if labels are damaged.
    """
    label_files = named_after(labeled.file_names, label_file)
    count = 0
    for image_id, name in label_files.items():
        labels = labeled.read(image_id)
        size, kept = (labels.height, labels.width), labels.instances.kept
        origins = kept.masks.boxes[:, :2].tolist()
        lines = [
            _line(class_index, outline(crop) + np.array([x, y]), size)
            for class_index, crop, (y, x) in zip(
                kept.labels.tolist(), kept.masks.crops(), origins, strict=True
            )
            if crop.any()
        ]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="ascii")
        count += len(lines)
    lines = [f"./{IMAGES}/{name}\n" for name in labeled.file_names.values()]
    (folder / LIST).write_text("".join(lines), encoding="utf-8")
    (folder / DATA).write_text(_data_yaml(labeled.classes), encoding="utf-8")
    return count


def _line(class_index: int, corners: NDArray[np.float64], size_hw: tuple[int, int]) -> str:
    scaled = corners / np.array(size_hw[::-1])
    return f"{class_index} {' '.join(f'{value:.6f}' for value in scaled.ravel().tolist())}\n"


def label_path(image: Path) -> Path:
    """Ultralytics' rule: the last folder `images` of the path becomes `labels`, the extension .txt."""
    *folders, name = image.with_suffix(".txt").parts
    if IMAGES in folders:
        folders[len(folders) - 1 - folders[::-1].index(IMAGES)] = LABELS
    return Path(*folders, name)


def label_file(image: str) -> str:
    """The labels of `images/<image>`."""
    return label_path(Path(IMAGES, image)).as_posix()


def _data_yaml(classes: Sequence[str]) -> str:
    # Without `path`, Ultralytics starts from this file's folder; `.` would be the one it was called in.
    names = "".join(f"  {index}: {_quoted(name)}\n" for index, name in enumerate(classes))
    return f"train: {LIST}\nval: {LIST}\nnames:\n{names}"


def _quoted(name: str) -> str:
    """A name as YAML reads it; JSON escapes a character beyond 16 bits as two, and YAML reads two."""
    escaped = (character if ord(character) > 0xFFFF else json.dumps(character)[1:-1] for character in name)
    return f'"{"".join(escaped)}"'


def _read_data_yaml(path: Path, split: str) -> tuple[dict[int, str], list[Path]]:
    """Class names by index, and the folders or lists of images of a split."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        names = document["names"]
        names = dict(enumerate(names)) if isinstance(names, list) else {int(i): n for i, n in names.items()}
        given = document[split]
    except (
        OSError,
        yaml.YAMLError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise UserError(
            f"{path}: not a data.yaml with `names` and `{split}` ({type(error).__name__} {error}).\n"
            "Expected the one that Ultralytics trains with, or the folder that it is in."
        ) from error
    if sorted(names) != list(range(len(names))) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{path}: `names` must be class names, numbered from 0 without gaps.")
    root = path.parent / str(document.get("path") or "")
    roots = [root if root.is_dir() else path.parent, path.parent]
    texts = given if isinstance(given, list) else [given]
    return {index: names[index] for index in sorted(names)}, [
        _place(str(text), roots, path) for text in texts
    ]


def _place(text: str, roots: Sequence[Path], path: Path) -> Path:
    # Roboflow writes `../train/images` for a folder beside data.yaml.
    candidates = [root / name for root in roots for name in (text, text.removeprefix("../"))]
    found = next((place for place in candidates if place.exists()), None)
    if found is None:
        raise UserError(f"{path}: {text} not found. Expected a folder of images, or a list of them.")
    return found


def _listed_images(place: Path) -> list[Path]:
    """The images of a folder, at any depth, or of a list; by their names, without resolving links."""
    if place.is_dir():
        return [place / name for name, _ in image_files(place)]
    lines = place.read_text(encoding="utf-8").split("\n")
    return [place.parent / line.strip() for line in lines if line.strip()]


def _shared_folder(places: Sequence[Path], data: Path) -> Path:
    """That of the images, if there is only one; else that of data.yaml."""
    return places[0] if len(places) == 1 and places[0].is_dir() else data.parent


def _row(line: str, names: Mapping[int, str]) -> tuple[str, NDArray[np.float64]]:
    """Class and corners (N, 2), relative to width and height, of a line."""
    try:
        class_index, *numbers = [float(word) for word in line.split()]
    except ValueError as error:
        raise FormatError(f"not numbers: {line:.40}") from error
    if class_index not in names:
        raise FormatError(f"class {class_index:g}, but data.yaml has {len(names)} names")
    if len(numbers) == 4:
        raise FormatError("4 numbers after the class: a box, not an outline")
    if len(numbers) < 6 or len(numbers) % 2:
        raise FormatError(f"{len(numbers)} numbers after the class: not three or more points")
    corners = np.array(numbers).reshape(-1, 2)
    if not (corners.min() >= -0.01 and corners.max() <= 1.01):
        raise FormatError("coordinates outside 0..1: not relative to width and height")
    return names[int(class_index)], corners
