"""Masks of annotations: their faults, area and box, and their pixels, packed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from s4m_cache.masks import Masks
from s4m_cache.segmentation import SegmentationError, check, decode_counts
from s4m_pipeline.data.findings import Problem


class MaskFault(NamedTuple):
    """A fault of one mask: the kind of problem and its details."""

    problem: Problem
    detail: str


def mask_faults(segmentation: Any, box: list[float] | None, height: int, width: int) -> list[MaskFault]:
    """Faults of a COCO `segmentation` of an image of `height` x `width` pixels.

    Args:
        box: that of the annotation as x, y, width, height in pixels, to compare the mask with.
    """
    try:
        checked = check(segmentation, height, width)
    except SegmentationError as error:
        return [MaskFault(Problem.MASK_FAULTY, str(error))]
    faults = []
    if isinstance(checked, list):
        if num_short := len(segmentation) - len(checked):
            detail = f"{num_short} of {len(segmentation)} polygons"
            faults.append(MaskFault(Problem.MASK_PART_SHORT, detail))
        visible = any(_is_surely_visible(polygon, height, width) for polygon in checked)
        if not visible and not coco_mask.area(_rle(checked, height, width)):
            return [*faults, MaskFault(Problem.MASK_EMPTY, "polygon without pixels")]
        outline = _bounds(checked, height, width)
    else:
        if not checked[1::2].any():
            return [MaskFault(Problem.MASK_EMPTY, "RLE without pixels")]
        x, y, w, h = coco_mask.toBbox(_rle(checked, height, width)).tolist()
        outline = (x, y, x + w, y + h)
    if box is not None and _are_apart((box[0], box[1], box[0] + box[2], box[1] + box[3]), outline):
        x0, y0, x1, y1 = outline
        detail = f"box {box}, that of the mask {[round(v, 1) for v in (x0, y0, x1 - x0, y1 - y0)]}"
        faults.append(MaskFault(Problem.BOX_MASK_APART, detail))
    return faults


Corners = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""


def _bounds(polygons: list[list[float]], height: int, width: int) -> Corners:
    """Of the part in the image."""
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return max(min(xs), 0.0), max(min(ys), 0.0), min(max(xs), float(width)), min(max(ys), float(height))


def _is_surely_visible(polygon: list[float], height: int, width: int) -> bool:
    """Whether a polygon needs no drawing to know that it covers pixels, which is far faster.

    It lies in the image, and its area (by the shoelace formula) is larger than a pixel along its outline.
    """
    xs, ys = polygon[::2], polygon[1::2]
    x0, y0, x1, y1 = min(xs), min(ys), max(xs), max(ys)
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        return False
    following = zip(xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    twice_area = outline = 0.0
    for x, y, (next_x, next_y) in zip(xs, ys, following, strict=True):
        twice_area += x * next_y - next_x * y
        outline += abs(next_x - x) + abs(next_y - y)
    return abs(twice_area) > 2 * (outline + 1)


def _are_apart(a: Corners, b: Corners) -> bool:
    """Whether two boxes have an IoU below 0.5, and an edge that differs by more than rounding."""
    if max(abs(p - q) for p, q in zip(a, b, strict=True)) <= 2:
        return False
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [max(0.0, x1 - x0) * max(0.0, y1 - y0) for x0, y0, x1, y1 in (a, b)]
    return shared < 0.5 * (sum(areas) - shared)


def area_and_box(segmentation: Any, height: int, width: int) -> tuple[int, list[float]]:
    """Area of a mask and its bounding box [x, y, width, height], in pixels.

    Raises:
        SegmentationError: as `check`.
    """
    checked = check(segmentation, height, width)
    rle = _rle(checked, height, width)
    return int(coco_mask.area(rle)), coco_mask.toBbox(rle).tolist()


def _rle(checked: list[list[float]] | NDArray[np.int64], height: int, width: int) -> Any:
    """pycocotools' run lengths of what `check` returns."""
    if isinstance(checked, list):
        return coco_mask.merge(coco_mask.frPyObjects(checked, height, width))
    return coco_mask.frPyObjects({"size": [height, width], "counts": checked.tolist()}, height, width)


def pack_segmentations(segmentations: Sequence[Any], height: int, width: int) -> Masks:
    """COCO `segmentation`s of an image, packed; only the columns of each object are ever decoded.

    Equal to `s4m_cache.segmentation.decode` pixel by pixel.

    Raises:
        SegmentationError: as `check`.
    """
    crops, origins = [], []
    for segmentation in segmentations:
        crop, origin = _crop(_runs(segmentation, height, width), height)
        crops.append(crop)
        origins.append(origin)
    return Masks.from_crops(crops, origins)


def _runs(segmentation: Any, height: int, width: int) -> NDArray[np.int64]:
    """Run lengths, column by column, background first."""
    checked = check(segmentation, height, width)
    if not isinstance(checked, list):
        return checked
    outlines = coco_mask.frPyObjects(checked, height, width)
    drawn = outlines[0] if len(outlines) == 1 else coco_mask.merge(outlines)
    return np.array(decode_counts(drawn["counts"]), np.int64)


def _crop(runs: NDArray[np.int64], height: int) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """The pixels [h, w] of a mask in its tight box, and the (y, x) of the first."""
    ends = np.cumsum(runs)[1::2]
    starts = ends - runs[1::2]
    starts, ends = starts[starts < ends], ends[starts < ends]
    if not starts.size:
        return np.zeros((0, 0), np.bool_), (0, 0)
    # Pixels are in the order of columns, so those of the object's columns are contiguous.
    x0, x1 = int(starts[0]) // height, -(-int(ends[-1]) // height)
    edges = np.stack([starts, ends], axis=1).ravel()
    lengths = np.diff(edges, prepend=x0 * height, append=x1 * height)
    columns = np.repeat(np.arange(lengths.size) % 2 == 1, lengths).reshape(x1 - x0, height)
    rows = np.flatnonzero(columns.any(axis=0))
    y0, y1 = int(rows[0]), int(rows[-1]) + 1
    return columns[:, y0:y1].T, (y0, x0)
