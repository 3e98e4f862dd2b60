"""Masks of COCO annotations, validated in Python: pycocotools overruns its buffers on malformed input."""

import math
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from s4m_cache.masks import Masks

_MIN_NUMBERS = 6
"""Numbers of the smallest polygon: x and y of 3 points."""


class SegmentationError(ValueError):
    """One mask is malformed; the message says how."""


def check(segmentation: Any, height: int, width: int) -> list[list[float]] | NDArray[np.int64]:
    """Validate a COCO `segmentation` of an image of `height` x `width` pixels.

    Accepted are a list of polygons [x0, y0, x1, y1, ...], and run lengths `{"size": [h, w], "counts": ...}`
    with counts as a list (uncompressed) or as a string or bytes (compressed).

    Returns:
        The polygons of at least 3 points, at least one; or run lengths (int64 [R], background first).

    Raises:
        SegmentationError: if it is neither, or unsafe to pass to pycocotools.
    """
    if isinstance(segmentation, list) and segmentation:
        return _checked_polygons(segmentation, height, width)
    if isinstance(segmentation, dict) and segmentation:
        return _checked_runs(segmentation, height, width)
    raise SegmentationError("no polygons and no RLE")


def decode(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """A COCO `segmentation` as bool [height, width], without its polygons of fewer than 3 points.

    Raises:
        SegmentationError: as `check`.
    """
    checked = check(segmentation, height, width)
    if isinstance(checked, list):
        outlines = coco_mask.frPyObjects(checked, height, width)
        mask: NDArray[np.bool_] = coco_mask.decode(coco_mask.merge(outlines)).astype(np.bool_)
        return mask
    return np.repeat(np.arange(checked.size) % 2 == 1, checked).reshape(width, height).T


def encode(masks: Masks, height: int, width: int) -> Iterator[dict[str, Any]]:
    """Each mask as the compressed run lengths of an image of this size, as pycocotools encodes it.

    Only the columns of a mask's box are decoded: what is before and after them belongs to its outer runs.
    """
    for index, (_, x0, _, x1) in enumerate(masks.boxes.tolist()):
        strip = masks.select(np.array([index])).dense((0, x0, height, x1))[0].T.ravel()
        changes = np.flatnonzero(np.diff(strip, prepend=False, append=False)) + x0 * height
        runs = np.diff(changes, prepend=0, append=height * width)
        counts = runs.tolist() if runs[-1] else runs[:-1].tolist()
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        yield {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def long_polygons(polygons: list[list[float]]) -> list[list[float]]:
    """The polygons of at least 3 points; pycocotools refuses shorter ones, or takes them for boxes."""
    return [polygon for polygon in polygons if len(polygon) >= _MIN_NUMBERS]


def _checked_polygons(polygons: list[Any], height: int, width: int) -> list[list[float]]:
    if not all(isinstance(polygon, list) for polygon in polygons):
        raise SegmentationError("polygons are not a list of lists of numbers")
    # pycocotools allocates memory by the length of the outline, so points far away are refused.
    reach = 2 * max(height, width)
    for polygon in polygons:
        if len(polygon) % 2:
            raise SegmentationError(f"polygon of {len(polygon)} numbers, an odd count")
        try:
            # A sum is finite only if all its terms are; this is far faster than testing each number.
            if not math.isfinite(sum(polygon)):
                raise SegmentationError("polygon with NaN or infinity")
        except (TypeError, OverflowError):
            raise SegmentationError("polygon with values that are not numbers") from None
        if polygon and (min(polygon) < -reach or max(polygon) > reach):
            raise SegmentationError(f"polygon far outside the {width} x {height} image")
    if not (drawn := long_polygons(polygons)):
        raise SegmentationError("no polygon has 3 points (6 numbers)")
    return drawn


def _checked_runs(rle: dict[str, Any], height: int, width: int) -> NDArray[np.int64]:
    size = rle.get("size")
    if size != [height, width] or not all(type(side) is int for side in size):
        expected = f"the image's [height, width] {[height, width]}"
        raise SegmentationError(f"RLE size {size!r:.40} is not {expected}")
    counts = rle.get("counts")
    if isinstance(counts, str | bytes):
        runs = decode_counts(counts)
    elif isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts):
        runs = counts
    else:
        runs = None
    if runs is None:
        raise SegmentationError("RLE counts cannot be decoded")
    if sum(runs) != height * width:
        raise SegmentationError(f"RLE runs sum to {sum(runs)}, not {height} x {width}")
    return np.array(runs, np.int64)


def decode_counts(counts: str | bytes) -> list[int] | None:
    """Run lengths (background first) of COCO's compressed counts, or None when they are malformed.

    Each run is written in groups of 5 bits, lowest first, as characters from code 48 on; bit 5 says that more
    follow, bit 4 of the last group is the sign. From the fourth run on, the difference to the run two before
    is written instead of the run.
    """
    content = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
    codes = np.frombuffer(content, dtype=np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        return None
    last = np.flatnonzero((codes & 0x20) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 6:  # 30 bits hold any run of an image; pycocotools shifts a 32-bit integer
        return None
    group = np.arange(codes.size) - np.repeat(first, lengths)  # place of each code inside its run
    values = np.add.reduceat((codes & 0x1F) << (5 * group), first)
    values -= ((codes[last] & 0x10) != 0).astype(np.int64) << (5 * lengths)
    runs = values.tolist()
    runs[1::2] = accumulate(runs[1::2])
    runs[2::2] = accumulate(runs[2::2])
    return None if min(runs) < 0 else runs
