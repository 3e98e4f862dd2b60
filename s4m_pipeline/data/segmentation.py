"""Masks of COCO annotations, checked in Python before native code ever sees them."""

import math
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from s4m_pipeline.data.findings import Problem

_FEWEST_NUMBERS = 6
"""Of a polygon: x and y of 3 points."""


class MaskFault(NamedTuple):
    """What is wrong with one mask: the problem, and its detail in a few words."""

    problem: Problem
    detail: str


def mask_fault(segmentation: Any, height: int, width: int) -> MaskFault | None:
    """The first fault of a COCO `segmentation` of an image of this size in pixels, or None.

    Accepted are a list of polygons [x0, y0, x1, y1, ...], and run lengths `{"size": [h, w], "counts": ...}`
    with counts as a list (uncompressed) or a string (compressed).
    """
    if isinstance(segmentation, list) and segmentation:
        return _polygons_fault(segmentation, height, width)
    if isinstance(segmentation, dict) and segmentation:
        return _rle_fault(segmentation, height, width)
    return MaskFault(Problem.MASK_FAULTY, "no polygons and no RLE")


def _polygons_fault(polygons: list[Any], height: int, width: int) -> MaskFault | None:
    if not all(isinstance(polygon, list) for polygon in polygons):
        return MaskFault(Problem.MASK_FAULTY, "polygons are not a list of lists of numbers")
    # Native code allocates memory by the length of the outline, so points far away are refused.
    reach = 2 * max(height, width)
    for polygon in polygons:
        if len(polygon) % 2:
            return MaskFault(Problem.MASK_FAULTY, f"polygon of {len(polygon)} numbers, an odd count")
        try:
            # A sum is finite only if all its terms are: far quicker than asking each of millions of numbers.
            if not math.isfinite(sum(polygon)):
                return MaskFault(Problem.MASK_FAULTY, "polygon with NaN or infinity")
        except (TypeError, OverflowError):
            return MaskFault(Problem.MASK_FAULTY, "polygon with something other than numbers")
        if polygon and (min(polygon) < -reach or max(polygon) > reach):
            return MaskFault(Problem.MASK_FAULTY, f"polygon far outside the {width} x {height} image")
    num_short = len(polygons) - len(long_polygons(polygons))
    if num_short == len(polygons):
        return MaskFault(Problem.MASK_FAULTY, "no polygon has 3 points (6 numbers)")
    if num_short:
        return MaskFault(Problem.MASK_PART_SHORT, f"{num_short} of {len(polygons)} polygons")
    return None


def long_polygons(polygons: list[list[float]]) -> list[list[float]]:
    """Those of at least 3 points; native code refuses the others, or takes them for boxes."""
    return [polygon for polygon in polygons if len(polygon) >= _FEWEST_NUMBERS]


def _rle_fault(rle: dict[str, Any], height: int, width: int) -> MaskFault | None:
    size = rle.get("size")
    if size != [height, width] or not all(type(side) is int for side in size):
        expected = f"the image's [height, width] {[height, width]}"
        return MaskFault(Problem.MASK_FAULTY, f"RLE size {size!r:.40} is not {expected}")
    counts = rle.get("counts")
    if isinstance(counts, str):
        runs = decode_counts(counts)
    elif isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts):
        runs = counts
    else:
        runs = None
    if runs is None:
        return MaskFault(Problem.MASK_FAULTY, "RLE counts cannot be decoded")
    if sum(runs) != height * width:
        return MaskFault(Problem.MASK_FAULTY, f"RLE runs sum to {sum(runs)}, not {height} x {width}")
    if sum(runs[1::2]) == 0:
        return MaskFault(Problem.MASK_EMPTY, "RLE without a pixel")
    return None


def decode_counts(text: str) -> list[int] | None:
    """Run lengths (background first) of COCO's compressed counts, or None when `text` is malformed.

    Each run is written in groups of 5 bits, lowest first, as characters from code 48 on; bit 5 says that more
    follow, bit 4 of the last group is the sign. From the fourth run on, the difference to the run two before
    is written instead of the run.
    """
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        return None
    last = np.flatnonzero((codes & 0x20) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 6:  # 30 bits hold any run of an image; native code shifts a 32-bit integer
        return None
    place = np.arange(codes.size) - np.repeat(first, lengths)
    values = np.add.reduceat((codes & 0x1F) << (5 * place), first)
    values -= ((codes[last] & 0x10) != 0).astype(np.int64) << (5 * lengths)
    runs = values.tolist()
    runs[1::2] = accumulate(runs[1::2])
    runs[2::2] = accumulate(runs[2::2])
    return None if min(runs) < 0 else runs
