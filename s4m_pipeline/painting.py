"""Masks painted on a photo: tinted, outlined and named; the one way in which all pictures show objects."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TINT = 0.35
GOLDEN_RATIO = 0.618033988749895

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]


class _Object(NamedTuple):
    mask: Mask
    box: tuple[int, int, int, int]
    """Around the mask: x and y of its first pixels, and those after its last ones."""
    text: str
    colour: Colour


def paint(
    photo: Pixels, masks: Mask, texts: Sequence[str], numbers: Sequence[int], *, lines_only: bool = False
) -> Image.Image:
    """Tint each mask, draw a line along the inner side of its outline, and write its text beside it.

    Args:
        photo: (H, W, 3) RGB; not modified.
        masks: (N, h, w) over the whole photo, in any resolution; the first one lies on top, and those
            without a pixel are left out.
        texts: N.
        numbers: N; equal ones are painted in one colour.
        lines_only: leave out the tint, which would hide the photo's own colours; lines are twice as wide.

    Returns:
        RGB picture of the photo's size.
    """
    canvas = photo.copy()
    objects = [
        _Object(fitting, box, text, colour_of(number))
        for mask, text, number in zip(masks, texts, numbers, strict=True)
        if (box := _box_around(fitting := _resized(mask, canvas.shape[:2]))) is not None
    ]
    line_px = max(1, round(max(canvas.shape) / 500)) * (2 if lines_only else 1)
    for shown in reversed(objects):
        _paint_mask(canvas, shown, 0.0 if lines_only else TINT, line_px)
    picture = Image.fromarray(canvas)
    _write_names(picture, objects)
    return picture


def colour_of(number: int) -> Colour:
    """Colours that are far apart for neighbouring numbers, bright enough for any photo."""
    hue = (0.02 + number * GOLDEN_RATIO) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.65)[number % 2], 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _resized(mask: Mask, size_hw: tuple[int, ...]) -> Mask:
    if mask.shape == size_hw:
        return mask
    return cv2.resize(mask.astype(np.uint8), size_hw[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def _box_around(mask: Mask) -> tuple[int, int, int, int] | None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _paint_mask(canvas: Pixels, shown: _Object, tint: float, line_px: int) -> None:
    x0, y0, x1, y1 = shown.box
    inside, region = shown.mask[y0:y1, x0:x1], canvas[y0:y1, x0:x1]
    region[inside] = ((1 - tint) * region[inside] + tint * np.array(shown.colour)).astype(np.uint8)
    region[inside & ~_eroded(inside, line_px)] = shown.colour


def _eroded(mask: Mask, pixels: int) -> Mask:
    """Where no pixel within a distance (up, down, left or right) lies outside of the mask."""
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _write_names(picture: Image.Image, objects: Sequence[_Object]) -> None:
    """A text beside each object, where it covers none of those before it if there is room."""
    size_px = min(24, max(13, round(max(picture.size) / 80)))
    font = ImageFont.load_default(size_px)
    draw = ImageDraw.Draw(picture)
    taken: list[Box] = []
    for shown in objects:
        size = (draw.textlength(shown.text, font) + 0.5 * size_px, 1.35 * size_px)
        box = _free_place(shown.box, size, picture.size, taken)
        taken.append(box)
        draw.rounded_rectangle(box, radius=0.25 * size_px, fill=shown.colour)
        ink = "black" if np.dot(shown.colour, (0.299, 0.587, 0.114)) > 140 else "white"
        middle = (box[0] + 0.25 * size_px, (box[1] + box[3]) / 2)
        draw.text(middle, shown.text, ink, font, anchor="lm")


def _free_place(
    object_box: Box, size: tuple[float, float], picture: tuple[int, int], taken: list[Box]
) -> Box:
    """Above the object, else below it, beside it, or inside; above if all is taken."""
    x0, y0, x1, y1 = object_box
    width, height = size
    corners = [(x0, y0 - height), (x0, y1), (x1, y0), (x0 - width, y0), (x0, y0), (x0, y1 - height)]
    places = [_moved_inside(corner, size, picture) for corner in corners]
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _moved_inside(corner: tuple[float, float], size: tuple[float, float], picture: tuple[int, int]) -> Box:
    x, y = (max(0.0, min(c, whole - s - 1)) for c, s, whole in zip(corner, size, picture, strict=True))
    return x, y, x + size[0], y + size[1]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
