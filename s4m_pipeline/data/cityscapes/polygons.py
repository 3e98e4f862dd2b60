"""Draw the polygons of a Cityscapes annotation as the data set's own `instanceIds` image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from s4m_pipeline.data.cityscapes.labels import COUNTABLE, INSTANCES_PER_LABEL, LABEL_IDS
from s4m_pipeline.errors import UserError

_REACH_PX = 1_000_000


def draw_polygons(document: dict[str, Any], width: int, height: int) -> NDArray[np.int32]:
    """Pixel values (height, width), as `labels.INSTANCES_PER_LABEL` explains them.

    Later polygons cover earlier ones. The k-th polygon of a countable label is its object k, covered or not;
    one labelled `...group` gets the label's id. Pillow draws, edges included, as for the published images.

    Raises:
        UserError: other size, unknown label, or something that is no polygon.
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
            raise UserError(f"objects[{place}] is no object")
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
