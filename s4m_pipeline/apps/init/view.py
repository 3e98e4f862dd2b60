"""What the network sees at once: a whole image, or a tile of one that is too large or too crowded."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from s4m_pipeline.apps.init.fitting import Facts
from s4m_pipeline.config.groups import TileOptions
from s4m_pipeline.data.tiles import Tiling

SPAN_PX = 16
"""Side that small objects should have: 4 cells of the stride-4 mask."""
_WHOLE_PX = 1024
"""Shorter side up to which images are not cut for their size."""
_LARGEST_PX = 4096
"""Shorter side that images are enlarged to at most."""
_CROWDED = 2
"""A tile may have this many times the objects that its area would have if they were spread evenly."""


@dataclass(frozen=True, kw_only=True)
class View:
    """How images are scaled and cut."""

    short_px: float
    """Shorter side of images with which small objects have the side that they should have, within limits."""
    tile_px: int | None = None
    """Side of a tile; None: images are not cut."""
    per_image: int = 1
    """Tiles of an image."""
    most_objects: int
    """Estimated maximum number of objects at once."""


def whole_view(facts: Facts, largest_scale: float) -> View:
    """Whole images, whose small objects may then be smaller than they should be."""
    short_px = min(_wanted_px(facts, largest_scale), _WHOLE_PX)
    return View(short_px=short_px, most_objects=facts.most_objects)


def choose_view(facts: Facts, largest_scale: float, tiles_px: Sequence[int], most_objects: int) -> View:
    """Whole images if they are not too large and have at most `most_objects`, else the largest tile with at
    most as many, else the smallest tile.

    Args:
        largest_scale: by which images are enlarged at most.
        tiles_px: sides of tiles to choose from, the largest one first.
    """
    short_px = _wanted_px(facts, largest_scale)
    long_px = short_px * facts.aspect
    options = [whole_view(facts, largest_scale)] if short_px <= _WHOLE_PX else []
    for tile_px in tiles_px:
        if tile_px < long_px:
            share = min(tile_px, short_px) * tile_px / (short_px * long_px)
            objects = round(facts.most_objects * min(_CROWDED * share, 1))
            tiles = Tiling(**TileOptions(size_px=tile_px).of_network or {})
            count = len(tiles.cut((round(short_px), round(long_px)), (1, 1)))
            options.append(View(short_px=short_px, tile_px=tile_px, per_image=count, most_objects=objects))
    return next((view for view in options if view.most_objects <= most_objects), options[-1])


def _wanted_px(facts: Facts, largest_scale: float) -> float:
    scale = min(SPAN_PX / sqrt(facts.small_object_px), largest_scale)
    return min(facts.short_px * scale, max(_LARGEST_PX, facts.short_px))
