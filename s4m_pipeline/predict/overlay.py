"""Pictures of predictions: masks tinted and outlined, with class and score."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from s4m_pipeline.predict.predictor import Detections

LEAST_SIDE_PX = 768
"""A photo whose longer side is less is enlarged by a whole factor, so that text on it can be read."""

TINT = 0.35
GOLDEN_RATIO = 0.618033988749895

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]


def draw_overlay(photo: NDArray[np.uint8], found: Detections, classes: Sequence[str]) -> Image.Image:
    """Photo with its objects, a colour each; the most certain ones lie on top.

    Args:
        photo: uint8 RGB (H, W, 3).
        found: its objects.
        classes: names by label.

    Returns:
        RGB picture of the photo's size, or of a multiple if the photo is small.
    """
    factor = max(1, -(-LEAST_SIDE_PX // max(photo.shape[:2])))
    height, width = (side * factor for side in photo.shape[:2])
    canvas = np.array(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC), np.uint8)
    line_px = max(1, round(max(height, width) / 500))
    for index in reversed(range(len(found))):
        _paint(canvas, found.masks[index], found.boxes[index], factor, _colour(index), line_px)
    picture = Image.fromarray(canvas)
    _write_names(picture, found, classes, factor)
    return picture


def _paint(
    canvas: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    box: NDArray[np.float32],
    factor: int,
    colour: Colour,
    line_px: int,
) -> None:
    """Tint a mask's pixels, and draw a line along the inner side of its outline."""
    x0, y0, x1, y1 = box.astype(int).tolist()
    inside = mask[y0:y1, x0:x1].repeat(factor, 0).repeat(factor, 1)
    region = canvas[y0 * factor : y1 * factor, x0 * factor : x1 * factor]
    region[inside] = ((1 - TINT) * region[inside] + TINT * np.array(colour)).astype(np.uint8)
    region[inside & ~_eroded(inside, line_px)] = colour


def _eroded(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Where no pixel within a distance (up, down, left or right) lies outside of the mask."""
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _write_names(picture: Image.Image, found: Detections, classes: Sequence[str], factor: int) -> None:
    """Class and score beside each object, where they cover no text of a more certain one if there is room."""
    size_px = min(24, max(13, round(max(picture.size) / 80)))
    font = ImageFont.load_default(size_px)
    draw = ImageDraw.Draw(picture)
    taken: list[Box] = []
    for index, (label, score) in enumerate(zip(found.labels.tolist(), found.scores.tolist(), strict=True)):
        text = f"{classes[label]} {score:.2f}"
        size = (draw.textlength(text, font) + 0.5 * size_px, 1.35 * size_px)
        box = _free_place(found.boxes[index] * factor, size, picture.size, taken)
        taken.append(box)
        colour = _colour(index)
        draw.rounded_rectangle(box, radius=0.25 * size_px, fill=colour)
        ink = "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else "white"
        middle = (box[0] + 0.25 * size_px, (box[1] + box[3]) / 2)
        draw.text(middle, text, ink, font, anchor="lm")


def _free_place(
    object_box: NDArray[np.float32], size: tuple[float, float], picture: tuple[int, int], taken: list[Box]
) -> Box:
    """Above the object, else below it, beside it, or inside; above if all is taken."""
    x0, y0, x1, y1 = object_box.tolist()
    width, height = size
    corners = [(x0, y0 - height), (x0, y1), (x1, y0), (x0 - width, y0), (x0, y0), (x0, y1 - height)]
    places = [_moved_inside(corner, size, picture) for corner in corners]
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _moved_inside(corner: tuple[float, float], size: tuple[float, float], picture: tuple[int, int]) -> Box:
    x, y = (max(0.0, min(c, whole - s - 1)) for c, s, whole in zip(corner, size, picture, strict=True))
    return x, y, x + size[0], y + size[1]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _colour(index: int) -> Colour:
    """Colours that are far apart for neighbouring indices, bright enough for any photo."""
    hue = (0.02 + index * GOLDEN_RATIO) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.65)[index % 2], 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
