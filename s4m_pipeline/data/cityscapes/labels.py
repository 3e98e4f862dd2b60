"""The labels of Cityscapes, and how `instanceIds` images encode them; polygons as such an image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from s4m_pipeline.core.errors import UserError

LABEL_IDS = {
    "unlabeled": 0,
    "ego vehicle": 1,
    "rectification border": 2,
    "out of roi": 3,
    "static": 4,
    "dynamic": 5,
    "ground": 6,
    "road": 7,
    "sidewalk": 8,
    "parking": 9,
    "rail track": 10,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "guard rail": 14,
    "bridge": 15,
    "tunnel": 16,
    "pole": 17,
    "polegroup": 18,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "caravan": 29,
    "trailer": 30,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
    "license plate": -1,
}
"""Id of every label name in the annotations; labels with a negative id are never drawn."""

COUNTABLE = ("person", "rider", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle")
"""Labels annotated object by object."""

INSTANCE_CLASSES = {name: LABEL_IDS[name] for name in COUNTABLE if name not in ("caravan", "trailer")}
"""The eight evaluated classes and their label ids, in the order of the ids."""

INSTANCES_PER_LABEL = 1000
"""A pixel of the k-th object of a countable label is `1000 * label id + k`; every other pixel, also that of a
group of objects annotated together, is its label id."""

_REACH_PX = 1_000_000


def is_pixel_value(value: int) -> bool:
    """Whether this value may occur in an `instanceIds` image."""
    if value < INSTANCES_PER_LABEL:
        return 0 <= value <= max(LABEL_IDS.values())
    return value // INSTANCES_PER_LABEL in {LABEL_IDS[name] for name in COUNTABLE}


def label_of(value: int) -> int:
    """The label id of a pixel value."""
    return value if value < INSTANCES_PER_LABEL else value // INSTANCES_PER_LABEL


def draw_polygons(document: dict[str, Any], width: int, height: int) -> NDArray[np.int32]:
    """Draw the polygons of an annotation as an `instanceIds` image: pixel values (height, width).

    Later polygons cover earlier ones. The k-th polygon of a countable label is its object k, even if covered;
    a polygon labeled `...group` gets the label's id. Pillow draws them, edges included, as it did for the
    published images.

    Raises:
        UserError: different size, unknown label, or malformed polygon.
    """
    size = (document.get("imgWidth"), document.get("imgHeight"))
    if size != (width, height):
        raise UserError(f"annotated size {size[0]} x {size[1]}, but the photo has {width} x {height}")
    if not isinstance(document.get("objects"), list):
        raise UserError("no list `objects`")
    image = Image.new("I", (width, height), LABEL_IDS["unlabeled"])
    canvas = ImageDraw.Draw(image)
    seen = dict.fromkeys(COUNTABLE, 0)
    for place, item in enumerate(document["objects"]):
        if not isinstance(item, dict):
            raise UserError(f"objects[{place}] is not a JSON object")
        if item.get("deleted"):
            continue
        label, is_group = _label(item.get("label"), place)
        value = LABEL_IDS[label]
        if label in seen and not is_group:
            value = value * INSTANCES_PER_LABEL + seen[label]
            seen[label] += 1
        if value >= 0:
            canvas.polygon(_corners(item.get("polygon"), place), fill=value)
    return np.asarray(image, np.int32)


def _label(name: Any, place: int) -> tuple[str, bool]:
    """A known label, and whether the name means a group of it."""
    if name in LABEL_IDS:
        return name, False
    single = str(name).removesuffix("group")
    if single != name and single in LABEL_IDS:
        return single, True
    raise UserError(f"objects[{place}] has the unknown label {name!r:.40}")


def _corners(polygon: Any, place: int) -> list[tuple[float, float]]:
    try:
        corners = np.asarray(polygon, np.float64)
    except (TypeError, ValueError):
        corners = np.zeros(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 2 or not np.all(abs(corners) < _REACH_PX):
        raise UserError(f"objects[{place}] has no polygon [[x, y], ...] of two or more points")
    return [(x, y) for x, y in corners.tolist()]
