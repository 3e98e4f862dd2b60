"""Draw masks on an image: tinted, outlined and labeled."""

import colorsys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from s4m_cache.masks import tight_box

TINT = 0.35
GOLDEN_RATIO = 0.618033988749895

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Color = tuple[int, int, int]
Box = tuple[float, float, float, float]


class _Object(NamedTuple):
    mask: Mask
    """Inside its box."""
    box: tuple[int, int, int, int]
    """Tight box of the mask: y0, x0, y1, x1 in pixels, ends exclusive."""
    text: str
    color: Color


def paint(
    photo: Pixels,
    masks: Iterable[Mask],
    texts: Sequence[str],
    numbers: Sequence[int],
    *,
    lines_only: bool = False,
) -> Image.Image:
    """Tint each mask, draw a line along the inside of its outline, and write its text beside it.

    Args:
        photo: (H, W, 3) RGB; not modified.
        masks: N of (h, w) covering the whole photo, in any resolution; the first one is drawn on top, and
            empty ones are skipped.
        texts: N labels; line ends in them become spaces.
        numbers: N color indices; equal numbers get the same color.
        lines_only: no tint, so that the colors of the photo stay visible; lines are twice as wide.

    Returns:
        RGB image of the photo's size.
    """
    canvas = photo.copy()
    objects = []
    for mask, text, number in zip(masks, texts, numbers, strict=True):
        fitting = _resized(mask, canvas.shape[:2])
        y0, x0, y1, x1 = box = tight_box(fitting)
        if y1 > y0:
            line = " ".join(text.split())
            objects.append(_Object(fitting[y0:y1, x0:x1].copy(), box, line, color_of(number)))
    line_px = max(1, round(max(canvas.shape) / 500)) * (2 if lines_only else 1)
    for shown in reversed(objects):
        _paint_mask(canvas, shown, 0.0 if lines_only else TINT, line_px)
    picture = Image.fromarray(canvas)
    _write_names(picture, objects)
    return picture


def color_of(number: int) -> Color:
    """A bright color for an index; colors of neighboring indices are far apart."""
    hue = (0.02 + number * GOLDEN_RATIO) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.65)[number % 2], 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _resized(mask: Mask, size_hw: tuple[int, ...]) -> Mask:
    if mask.shape == size_hw:
        return mask
    return cv2.resize(mask.astype(np.uint8), size_hw[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def _paint_mask(canvas: Pixels, shown: _Object, tint: float, line_px: int) -> None:
    y0, x0, y1, x1 = shown.box
    inside, region = shown.mask, canvas[y0:y1, x0:x1]
    region[inside] = ((1 - tint) * region[inside] + tint * np.array(shown.color)).astype(np.uint8)
    region[inside & ~_eroded(inside, line_px)] = shown.color


def _eroded(mask: Mask, pixels: int) -> Mask:
    """Erode a mask `pixels` times with a 4-connected structuring element."""
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _write_names(picture: Image.Image, objects: Sequence[_Object]) -> None:
    """Write a text beside each object, without covering earlier texts if there is room."""
    size_px = min(24, max(13, round(max(picture.size) / 80)))
    font = ImageFont.load_default(size_px)
    draw = ImageDraw.Draw(picture)
    taken: list[Box] = []
    for shown in objects:
        size = (draw.textlength(shown.text, font) + 0.5 * size_px, 1.35 * size_px)
        box = _free_place(shown.box, size, picture.size, taken)
        taken.append(box)
        draw.rounded_rectangle(box, radius=0.25 * size_px, fill=shown.color)
        ink = "black" if np.dot(shown.color, (0.299, 0.587, 0.114)) > 140 else "white"
        middle = (box[0] + 0.25 * size_px, (box[1] + box[3]) / 2)
        draw.text(middle, shown.text, ink, font, anchor="lm")


def _free_place(
    object_yxyx: tuple[int, int, int, int],
    size: tuple[float, float],
    picture: tuple[int, int],
    taken: list[Box],
) -> Box:
    """The first free place above, below, beside or inside the object; above it if none is free."""
    y0, x0, y1, x1 = object_yxyx
    width, height = size
    corners = [(x0, y0 - height), (x0, y1), (x1, y0), (x0 - width, y0), (x0, y0), (x0, y1 - height)]
    places = [_moved_inside(corner, size, picture) for corner in corners]
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _moved_inside(corner: tuple[float, float], size: tuple[float, float], picture: tuple[int, int]) -> Box:
    x, y = (max(0.0, min(c, whole - s - 1)) for c, s, whole in zip(corner, size, picture, strict=True))
    return x, y, x + size[0], y + size[1]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
