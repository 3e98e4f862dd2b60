"""One closed outline for any mask, and the mask of an outline."""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

_FINE = 3
"""Places per pixel and axis at which an outline may turn; their middles are at 1/6, 1/2 and 5/6."""


def fill(corners: NDArray[np.floating], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) inside an outline (N, 2) of x, y in pixels, with the pixels that the line touches.

    As Ultralytics fills it: coordinates are cut to whole pixels.
    """
    return cv2.fillPoly(np.zeros(size_hw, np.uint8), [corners.astype(np.int32)], 1) > 0


def outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """One closed line for a mask (H, W) with at least a pixel.

    The line runs along the edges of the pixels, a sixth of a pixel inside: cut to whole pixels it passes
    through the outermost pixels, and the area inside has the size of the mask. So programs that fill it with
    the line (`fill`, also of an enlarged image) and those that fill by area (pycocotools) give a mask of one
    part, with any holes, again in every pixel.

    Whatever one line fills is connected, so several parts have a price: the line goes to the next part and
    back on the same way, which `fill` draws as a connection one pixel wide and as short as possible; or a
    part is left out, where that costs less IoU.

    Returns:
        Corners (N, 2), x and y in pixels from the upper left corner of the mask; N >= 4.
    """
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    fine = mask.astype(np.uint8).repeat(_FINE, axis=0).repeat(_FINE, axis=1)
    found, _ = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    loops = [loop[:, 0].astype(np.int64) for loop in found]
    part_of = np.array([parts[y, x] for (x, y), *_ in (loop // _FINE for loop in loops)])
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.int64)
    first = int(areas[part_of].argmax())
    line = loops[first]
    for start, detour in _detours(loops, part_of, areas, first):
        place = int((line == start).all(axis=1).argmax()) + 1
        line = np.concatenate([line[:place], detour, line[place - 1 :]])
    steps = np.diff(line, axis=0, append=line[:1])
    turns = (steps != np.roll(steps, 1, axis=0)).any(axis=1)
    return (line[turns] + 0.5) / _FINE


def _detours(
    loops: list[NDArray[np.int64]], part_of: NDArray[np.integer], areas: NDArray[np.integer], loop: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Where to leave the line that starts with `loop`, and for which other loop; the nearest one first.

    Args:
        loops: the outer line of each part, and the line around each hole (N, 2), in places of `_FINE`.
        part_of: part of each loop.
        areas: pixels of each part; first those of the background.
        loop: the first, of the largest part.
    """
    points = np.concatenate(loops)
    owners = np.repeat(np.arange(len(loops)), [len(own) for own in loops])
    parts = part_of[owners]
    distances = np.full(len(points), np.inf)  # in pixels, from each point to the line,
    nearest = np.zeros_like(points)  # and to which of its points
    pixels = points // _FINE
    entered = (pixels != np.roll(pixels, 1, axis=0)).any(axis=1)  # one point of each pixel is enough
    waiting = entered.copy()
    drawn = np.arange(len(areas)) == part_of[loop]
    intersection, union = float(areas[part_of[loop]]), float(areas[1:].sum())
    while True:
        waiting &= owners != loop
        left = np.flatnonzero(waiting)
        # The larger one of both differences is the number of pixels between two points.
        new = np.flatnonzero((owners == loop) & entered)
        from_new, places = cKDTree(pixels[new]).query(pixels[left], p=np.inf)
        closer = from_new < distances[left]
        distances[left[closer]] = from_new[closer]
        nearest[left[closer]] = points[new[places[closer]]]
        gaps = distances[left] - 1
        left = left[drawn[parts[left]] | (areas[parts[left]] * union > gaps * intersection)]  # a higher IoU
        if not len(left):
            return
        place = left[distances[left].argmin()]
        loop, part = int(owners[place]), parts[place]
        if not drawn[part]:
            intersection, union = intersection + areas[part], union + distances[place] - 1
            drawn[part] = True
        start = place - int((owners == loop).argmax())
        yield nearest[place], np.concatenate([loops[loop][start:], loops[loop][: start + 1]])
