"""LabelMe's JSON files, one beside each image: polygons and masks in pixels."""

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from s4m_cache.coco import LabeledImages
from s4m_cache.limits import MAX_PIXELS
from s4m_cache.records import ImageLabels
from s4m_pipeline.data.formats.naming import named_after, with_extension
from s4m_pipeline.data.formats.reading import REACH_PX, Collector, FormatError, ReadLabels

_VERSION = "5.5.0"
"""The first line of versions whose files have `mask` shapes; LabelMe reads files of all versions."""
_POINTS = {
    "polygon": (3, None),
    "oriented_rectangle": (4, 4),
    "rectangle": (2, 2),
    "circle": (2, 2),
    "mask": (2, 2),
}
"""Least and largest number of points of the kinds of shapes that have an area."""


def read_labelme(source: Path, images: Path | None = None, max_pixels: int = MAX_PIXELS) -> ReadLabels:
    """Read LabelMe's files, with the masks that LabelMe draws.

    Shapes of one label and `group_id` are parts of one object. Lines and points are left out.

    Args:
        source: folder of the JSON files, at any depth.
        images: folder that file names will be relative to; None: `source`.
        max_pixels: largest accepted width x height.

    Raises:
        UserError: one message with all faults.
    """
    collector = Collector(source, images or source, max_pixels)
    left_out: Counter[str] = Counter()
    for path in sorted(source.rglob("*.json")):
        try:
            document = _read(path)
            if document is not None:
                photo = _photo(path, str(document["imagePath"]), collector.images)
                size_hw = collector.size(photo)
                objects = _objects(document, size_hw, left_out)
                collector.add(photo, size_hw, [label for label, _ in objects], objects.values())
        except (FormatError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            reason = str(error) if isinstance(error, FormatError) else f"not as LabelMe writes it: {error!r}"
            collector.fault(path.relative_to(source).as_posix(), reason)
    notes = [f"{count} shapes of the kind {kind} are left out" for kind, count in left_out.items()]
    return collector.done(
        None, "Expected LabelMe's JSON files, each beside the image that its imagePath names.", notes
    )


def write_labelme(labeled: LabeledImages, folder: Path) -> int:
    """Write `<image>.json` for every image; returns the number of objects.

    An object is a polygon for each part, with one `group_id` if there are several; or a mask if it has holes.
    Both give every pixel back. Ignored instances and masks without pixels are left out. `imagePath` is the
    image's name without folders: the files are for the folder of the images.

    Raises:
        UserError: if two images would share a file.
        OSError: as the file system reports it.
    """
    files = named_after(labeled.file_names, lambda name: with_extension(name, ".json"))
    count = 0
    for image_id, name in labeled.file_names.items():
        labels = labeled.read(image_id)
        document = labelme_document(Path(name).name, labels, labeled.classes)
        path = folder / files[image_id]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
        count += int((labels.instances.kept.masks.areas > 0).sum())
    return count


def labelme_document(image_name: str, labels: ImageLabels, classes: Any) -> dict[str, Any]:
    """The content of one of LabelMe's files."""
    kept = labels.instances.kept
    origins = kept.masks.boxes[:, :2].tolist()
    shapes = []
    for number, (crop, (y, x)) in enumerate(zip(kept.masks.crops(), origins, strict=True), 1):
        parts = list(_shapes(crop, x, y)) if crop.any() else []
        for part in parts:
            shapes.append(
                {
                    "label": classes[kept.labels[number - 1]],
                    **part,
                    "group_id": number if len(parts) > 1 else None,
                    "description": f"score {kept.scores[number - 1]:.2f}",
                    "flags": {},
                }
            )
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image_name,
        "imageData": None,
        "imageHeight": labels.height,
        "imageWidth": labels.width,
    }


def _shapes(crop: NDArray[np.bool_], x: int, y: int) -> Iterator[dict[str, Any]]:
    """One object as shapes; (x, y) is the first pixel of its box."""
    height, width = crop.shape
    found, tree = cv2.findContours(crop.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if (tree[0, :, 3] >= 0).any():  # a contour within another one: a hole
        file = io.BytesIO()
        Image.fromarray(crop).save(file, "PNG")
        corners = [[x, y], [x + width - 1, y + height - 1]]
        encoded = base64.b64encode(file.getvalue()).decode("ascii")
        yield {"points": corners, "shape_type": "mask", "mask": encoded}
        return
    for loop in found:
        corners = (loop[:, 0] + np.array([x, y])).tolist()
        corners += [corners[-1]] * (3 - len(corners))  # LabelMe refuses polygons of fewer points
        yield {"points": corners, "shape_type": "polygon", "mask": None}


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a file; None if it is JSON of a different kind."""
    document = json.loads(path.read_bytes())
    return document if isinstance(document, dict) and "shapes" in document else None


def _photo(path: Path, image_path: str, images: Path) -> Path:
    """The image of a file: where `imagePath` says, else of this name beside the file or in `images`."""
    name = PureWindowsPath(image_path)  # reads both kinds of slashes
    candidates = [path.parent / name.as_posix(), path.parent / name.name, images / name.name]
    found = next((place for place in candidates if place.is_file()), None)
    if found is None:
        raise FormatError(f"its image {image_path} is not there")
    return found


def _objects(
    document: dict[str, Any], size_hw: tuple[int, int], left_out: Counter[str]
) -> dict[tuple[str, Any], NDArray[np.bool_]]:
    """Masks (H, W) by label and group; shapes without an area are counted in `left_out`."""
    listed = document.get("imageHeight"), document.get("imageWidth")
    if listed not in (size_hw, (None, None)):
        made, found = (f"{width} x {height} pixels" for height, width in (listed, size_hw))
        raise FormatError(f"made for {made}, but the image has {found}")
    objects: dict[tuple[str, Any], NDArray[np.bool_]] = {}
    for place, shape in enumerate(document["shapes"]):
        kind = shape.get("shape_type") or "polygon"
        if kind not in _POINTS:
            left_out[kind] += 1
            continue
        group = shape.get("group_id")
        key = str(shape["label"]), f"alone {place}" if group is None else group
        objects[key] = objects.get(key, False) | _draw(shape, kind, size_hw)
    return objects


def _draw(shape: dict[str, Any], kind: str, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of a shape. LabelMe draws with Pillow, edges included."""
    corners = np.asarray(shape["points"], np.float64)
    least, most = _POINTS[kind]
    if corners.ndim != 2 or corners.shape[1] != 2 or not least <= len(corners) <= (most or math.inf):
        raise FormatError(f"a {kind} with {len(corners)} points")
    if not np.all(abs(corners) < REACH_PX):
        raise FormatError(f"a {kind} far outside the image")
    if kind == "mask":
        return _placed(shape["mask"], corners, size_hw)
    image = Image.new("1", size_hw[::-1])
    canvas = ImageDraw.Draw(image)
    if kind == "rectangle":
        canvas.rectangle([*corners.min(axis=0), *corners.max(axis=0)], fill=1, outline=1)
    elif kind == "circle":
        radius = math.dist(*corners)
        canvas.ellipse([*(corners[0] - radius), *(corners[0] + radius)], fill=1, outline=1)
    else:
        canvas.polygon([(x, y) for x, y in corners.tolist()], fill=1, outline=1)
    return np.asarray(image, np.bool_)


def _placed(encoded: str, corners: NDArray[np.float64], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask shape: a PNG of the box whose first and last pixel `corners` names."""
    with Image.open(io.BytesIO(base64.b64decode(encoded)), formats=("PNG",)) as image:
        crop = np.asarray(image).astype(np.bool_)
    (x0, y0), (x1, y1) = corners.astype(int).tolist()
    mask = np.zeros(size_hw, np.bool_)
    if mask[y0 : y1 + 1, x0 : x1 + 1].shape != crop.shape or min(x0, y0) < 0:
        raise FormatError(f"a mask of {crop.shape[1]} x {crop.shape[0]} pixels that does not fit its place")
    mask[y0 : y1 + 1, x0 : x1 + 1] = crop
    return mask
