"""Encode images as data URIs of limited size, and masks as SVG paths."""

import base64
import io

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

GRID = 1000
"""Coordinates of outlines are integers; the longer side of the image has this many units."""
_TOLERANCE = 0.75
_WORKING_PX = 1024
_QUALITIES = (82, 65, 45)


def data_uri(pixels: Pixels, *, side_px: int, max_bytes: int) -> str:
    """RGB (H, W, 3) as a WebP in a `data:` URI.

    Args:
        side_px: largest longer side; smaller images keep their size.
        max_bytes: of the WebP; quality, then size are reduced until it fits.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    while True:
        for quality in _QUALITIES:
            stream = io.BytesIO()
            image.save(stream, "WEBP", quality=quality, method=4)
            if stream.tell() <= max_bytes or max(image.size) < 32:
                return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
        image.thumbnail((image.width * 2 // 3, image.height * 2 // 3), Image.Resampling.LANCZOS)


def grid_size(height: int, width: int) -> tuple[int, int]:
    """Width and height of an image in the integer units of its outlines."""
    scale = GRID / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def outline(mask: npt.NDArray[np.bool_], max_chars: int = 4000) -> str:
    """A mask (H, W) as the `d` of an SVG path with the even-odd fill rule; "" for an empty mask.

    The mask is resampled to 1024 pixels along its longer side; the contour runs through the centers of the
    outermost pixels and is simplified by less than a thousandth of that side. If it is longer than
    `max_chars`, it is simplified further, and small parts disappear.
    """
    height, width = mask.shape
    factor = _WORKING_PX / max(height, width)
    size_wh = (max(1, round(width * factor)), max(1, round(height * factor)))
    enlarging = cv2.INTER_LINEAR if factor > 1 else cv2.INTER_AREA
    fine = cv2.resize(mask.astype(np.float32), size_wh, interpolation=enlarging) >= 0.5
    contours, _ = cv2.findContours(fine.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    frame_wh = grid_size(height, width)
    scale_xy = np.array(frame_wh) / size_wh
    points = [contour[:, 0].astype(np.float32) for contour in contours]
    tolerance = _TOLERANCE
    while len(path := "".join(_path(ring, scale_xy, tolerance) for ring in points)) > max_chars:
        tolerance *= 2
    return path


def _path(points_N2: npt.NDArray[np.float32], scale_xy: npt.NDArray[np.float64], tolerance: float) -> str:
    """SVG path of a closed contour, given by the centers of its pixels."""
    simple = cv2.approxPolyDP(points_N2[:, None], tolerance, True)[:, 0]
    points = np.rint((simple + 0.5) * scale_xy).astype(int).tolist()
    return "M" + "L".join(f"{x} {y}" for x, y in points) + "Z" if len(points) > 2 else ""
