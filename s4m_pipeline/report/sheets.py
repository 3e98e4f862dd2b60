"""Sheets of photos with masks drawn on them: pictures to look at before hours are spent."""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

SIDE_PX = 384
"""Longer side of a tile."""
GAP_PX = 8
TITLE_PX = 16
COLOURS = ((230, 60, 50), (40, 130, 230), (50, 180, 80), (240, 170, 30), (160, 70, 200), (30, 190, 190))


def sheet(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """Tiles in rows, of one height each, under the titles of the columns."""
    width = max(sum(tile.width + GAP_PX for tile in row) for row in rows)
    height = TITLE_PX + sum(row[0].height + GAP_PX for row in rows)
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    y = TITLE_PX
    for number, row in enumerate(rows):
        x = 0
        for tile, title in zip(row, titles, strict=False):
            if number == 0:
                pen.text((x + 2, 2), title, "black")
            canvas.paste(tile, (x, y))
            x += tile.width + GAP_PX
        y += row[0].height + GAP_PX
    return canvas


def fitted(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB (H, W, 3) in the size of a tile."""
    scale = SIDE_PX / max(photo.shape[:2])
    height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))


def overlay(
    photo: NDArray[np.uint8], masks: Tensor, texts: Sequence[str], colours: Sequence[int]
) -> Image.Image:
    """Tint and outline each mask, the first one on top, and write its text at its first pixel.

    Args:
        photo: (H, W, 3) RGB.
        masks: (N, h, w) bool over the whole photo, in any resolution.
        texts: N.
        colours: N numbers; equal ones are drawn in one colour.
    """
    canvas = photo.astype(np.float32)
    places = []
    for mask, text, number in reversed(list(zip(masks, texts, colours, strict=True))):
        inside = F.interpolate(mask[None, None].float(), photo.shape[:2])[0, 0].cpu().numpy() > 0
        colour = np.array(COLOURS[number % len(COLOURS)], np.float32)
        canvas[inside] = 0.55 * canvas[inside] + 0.45 * colour
        canvas[_outline(inside)] = colour
        if inside.any():
            y, x = np.argwhere(inside)[0]
            places.append((int(x), int(y), text))
    tile = Image.fromarray(canvas.round().astype(np.uint8))
    pen = ImageDraw.Draw(tile)
    for x, y, text in places:
        anchor = (max(min(x, tile.width - 70), 0), max(y - 10, 0))
        pen.text(anchor, text, "white", stroke_width=1, stroke_fill="black")
    return tile


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask that have a neighbour outside of it."""
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core
