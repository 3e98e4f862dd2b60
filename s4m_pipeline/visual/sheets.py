"""Arrange images in a grid with titles, and grids below each other."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIDE_PX = 384
"""Longer side of a tile."""
GAP_PX = 8
TITLE_PX = 22
HEADING_PX = 52


class Section(NamedTuple):
    """A grid with a heading and a note."""

    heading: str
    note: str
    picture: Image.Image | None


def sheet(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """A grid of tiles with a title above each column."""
    width = len(titles) * (SIDE_PX + GAP_PX)
    heights = [max(tile.height for tile in row) + GAP_PX for row in rows]
    canvas = Image.new("RGB", (width, TITLE_PX + sum(heights)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for place, title in enumerate(titles):
        pen.text((place * (SIDE_PX + GAP_PX) + 2, 2), title, "black", font)
    y = TITLE_PX
    for row, height in zip(rows, heights, strict=True):
        for place, tile in enumerate(row):
            canvas.paste(tile, (place * (SIDE_PX + GAP_PX), y))
        y += height
    return canvas


def stacked(sections: Sequence[Section]) -> Image.Image:
    """Sections below each other, each with its heading and note above."""
    pictures = [section.picture for section in sections if section.picture is not None]
    width = max(picture.width for picture in pictures)
    height = len(sections) * HEADING_PX + sum(picture.height for picture in pictures)
    canvas = Image.new("RGB", (width, height), "white")
    pen, y = ImageDraw.Draw(canvas), 0
    for section in sections:
        pen.text((2, y + 4), section.heading, "black", ImageFont.load_default(20))
        pen.text((2, y + 31), section.note, "dimgray", ImageFont.load_default(14))
        y += HEADING_PX
        if section.picture is not None:
            canvas.paste(section.picture, (0, y))
            y += section.picture.height
    return canvas


def fitted(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize an RGB image (H, W, 3) to the size of a tile."""
    scale = SIDE_PX / max(photo.shape[:2])
    height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))
