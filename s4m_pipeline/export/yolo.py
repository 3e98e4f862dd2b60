"""Pseudo-labels as YOLO segmentation text: one line per object, class and outline in shares of the image."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cache.coco import default_file_name
from cache.reader import CacheReader
from s4m_pipeline.errors import UserError

DATA = "data.yaml"
IMAGES = "images"
LIST = "images.txt"
LABELS = "labels"


def export_yolo(reader: CacheReader, folder: Path, file_names: Mapping[int, str] | None = None) -> int:
    """Write `labels/<image>.txt` for every image of a generation, images.txt, and data.yaml last.

    An image without objects has an empty file. Masks without pixels are left out. images.txt lists the images
    as they are to be found in `images`: given that folder, Ultralytics would take images without labels for
    background, and look for labels beside a linked folder's target.

    Args:
        reader: the generation.
        folder: where to; made if need be.
        file_names: file below the image folder, by image id; other images as in `export_coco`.

    Returns:
        The number of objects.

    Raises:
        UserError: if two images would share a file of labels.
        OSError: as the file system reports it.
        DamagedError: if labels are damaged.
    """
    names = {id_: (file_names or {}).get(id_, default_file_name(id_)) for id_ in reader.image_ids.tolist()}
    label_files = _label_files(names)
    count = 0
    for image_id, name in label_files.items():
        labels = reader.read(image_id)
        size = (labels.height, labels.width)
        origins = labels.instances.masks.boxes[:, :2].tolist()
        lines = [
            _line(class_index, polygon(crop) + np.array([x, y]), size)
            for class_index, crop, (y, x) in zip(
                labels.instances.labels.tolist(), labels.instances.masks.crops(), origins, strict=True
            )
            if crop.any()
        ]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="ascii")
        count += len(lines)
    lines = [f"./{IMAGES}/{name}\n" for name in names.values()]
    (folder / LIST).write_text("".join(lines), encoding="utf-8")
    (folder / DATA).write_text(_data_yaml(reader.generation.spec.classes), encoding="utf-8")
    return count


def polygon(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The outline of a mask (H, W) with at least a pixel, as corners (N, 2) of x, y at pixel centres; N >= 3.

    Parts and holes are joined to a single closed line by bridges that are walked there and back. Filled by
    the even-odd rule, the line's own pixels included, as OpenCV's fillPoly does, it gives the mask back but
    for the bridges, one pixel wide, that cross the gap between two parts.
    """
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    loops = sorted((loop[:, 0].astype(np.int64) for loop in found), key=len, reverse=True)
    line = loops[0]
    for loop in loops[1:]:
        line = _joined(line, loop)
    return line if len(line) >= 3 else np.resize(line, (3, 2))


def _joined(line: NDArray[np.int64], loop: NDArray[np.int64]) -> NDArray[np.int64]:
    """A detour through another loop, from where the two come closest."""
    distances, nearest = cKDTree(loop).query(line)
    i = int(distances.argmin())
    j = int(nearest[i])
    return np.concatenate([line[: i + 1], loop[j:], loop[: j + 1], line[i:]])


def _line(class_index: int, corners: NDArray[np.int64], size_hw: tuple[int, int]) -> str:
    shares = (corners + 0.5) / np.array(size_hw[::-1])
    return f"{class_index} {' '.join(f'{share:.6f}' for share in shares.ravel().tolist())}\n"


def _label_files(names: Mapping[int, str]) -> dict[int, str]:
    files = {id_: label_file(name) for id_, name in names.items()}
    owners: dict[str, int] = {}
    for id_, file in files.items():
        other = owners.setdefault(file, id_)
        if other != id_:
            raise UserError(
                f"{names[other]} and {names[id_]} (images {other} and {id_}) would share the file of labels "
                f"{file}: YOLO tells images apart by their names without ending.\nRename one of them."
            )
    return files


def label_file(image: str) -> str:
    """Where Ultralytics looks for the labels of `images/<image>`: it renames the last folder called so."""
    *folders, name = (IMAGES, *PurePosixPath(image).with_suffix(".txt").parts)
    last = len(folders) - 1 - folders[::-1].index(IMAGES)
    return "/".join([*folders[:last], LABELS, *folders[last + 1 :], name])


def _data_yaml(classes: Sequence[str]) -> str:
    # Without `path`, Ultralytics starts from this file's folder; `.` would be the one it was called in.
    names = "".join(f"  {index}: {_quoted(name)}\n" for index, name in enumerate(classes))
    return f"train: {LIST}\nval: {LIST}\nnames:\n{names}"


def _quoted(name: str) -> str:
    """A name as YAML reads it; beyond 16 bits JSON's escapes are two, which YAML takes for two characters."""
    escaped = (character if ord(character) > 0xFFFF else json.dumps(character)[1:-1] for character in name)
    return f'"{"".join(escaped)}"'
