"""Instance masks as bit-packed crops: small on disk, decoded a window at a time.

A mask is kept as its tight bounding box and the pixels inside it, one bit each, row by row, each row padded
to whole bytes. Rows that start on a byte let zstd see that neighboring rows are alike, and let a window be
cut out without unpacking the rest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from s4m_cache.errors import CacheError

Box = tuple[int, int, int, int]
"""(y0, x0, y1, x1) in pixels, y1 and x1 exclusive."""
MATCH_IOU = 0.5
"""Two masks are of the same object when their IoU is above this, as in the COCO and Cityscapes metrics."""


@dataclass(frozen=True, eq=False)
class Masks:
    """M bit-packed masks of one image.

    Attributes:
        boxes: int32 [M, 4], tight (y0, x0, y1, x1) in image pixels; (0, 0, 0, 0) for a mask without pixels.
        bits: uint8 [B], the packed crops one after the other; B is the sum of `packed_sizes(boxes)`.
    """

    boxes: NDArray[np.int32]
    bits: NDArray[np.uint8]

    @classmethod
    def from_dense(cls, dense: NDArray[np.bool_]) -> "Masks":
        """Pack bool masks of shape [M, H, W] (uint8 0/1 is taken as bool).

        Raises:
            CacheError: if the shape or the dtype is different.
        """
        if dense.ndim != 3 or dense.dtype not in (np.bool_, np.uint8):
            raise CacheError(f"masks must be bool [M, H, W], got {dense.dtype} {list(dense.shape)}")
        boxes = [tight_box(mask) for mask in dense]
        crops = [mask[y0:y1, x0:x1] != 0 for mask, (y0, x0, y1, x1) in zip(dense, boxes, strict=True)]
        return cls.from_crops(crops, [(y0, x0) for y0, x0, _, _ in boxes])

    @classmethod
    def from_crops(cls, crops: Sequence[NDArray[np.bool_]], origins: Sequence[tuple[int, int]]) -> "Masks":
        """Pack tight bool crops [h, w], each with the (y, x) of its first pixel in the image."""
        boxes = np.zeros((len(crops), 4), np.int32)
        for box, crop, (y, x) in zip(boxes, crops, origins, strict=True):
            if crop.size:
                box[:] = y, x, y + crop.shape[0], x + crop.shape[1]
        packed = [np.packbits(crop, axis=1).ravel() for crop in crops if crop.size]
        return cls(boxes, np.concatenate([np.zeros(0, np.uint8), *packed]))

    @classmethod
    def empty(cls, count: int) -> "Masks":
        """`count` masks without pixels."""
        return cls(np.zeros((count, 4), np.int32), np.zeros(0, np.uint8))

    def __len__(self) -> int:
        return len(self.boxes)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """int64 [M + 1]: where each mask's bytes start in `bits`."""
        return offsets(packed_sizes(self.boxes))

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each mask, int64 [M]."""
        cumulated = offsets(np.bitwise_count(self.bits))
        return cumulated[self.offsets[1:]] - cumulated[self.offsets[:-1]]

    def dense(self, window: Box) -> NDArray[np.bool_]:
        """Decode the masks inside `window` (which may exceed the image) as bool [M, y1 - y0, x1 - x0]."""
        y0, x0, y1, x1 = window
        out = np.zeros((len(self), max(y1 - y0, 0), max(x1 - x0, 0)), np.uint8)
        for index, box in enumerate(self.boxes.tolist()):
            shared = _overlap(box, window)
            if shared is not None:
                top, left, bottom, right = shared
                out[index, top - y0 : bottom - y0, left - x0 : right - x0] = self._unpack(index, shared)
        return out.view(np.bool_)

    def each(self, window: Box) -> Iterator[NDArray[np.bool_]]:
        """As `dense`, one mask after the other, so that only one is in memory."""
        for index in range(len(self)):
            yield self.select(np.array([index])).dense(window)[0]

    def crops(self) -> list[NDArray[np.bool_]]:
        """Each mask inside its own box, bool [h, w]."""
        return [self._unpack(i, box).view(np.bool_) for i, box in enumerate(self.boxes.tolist())]

    def select(self, index: NDArray[np.int_] | NDArray[np.bool_]) -> "Masks":
        """The masks at the given positions, or where a bool [M] array is true."""
        chosen = np.arange(len(self))[index]
        pieces = [self.bits[self.offsets[i] : self.offsets[i + 1]] for i in chosen]
        return Masks(self.boxes[chosen], np.concatenate([np.zeros(0, np.uint8), *pieces]))

    @staticmethod
    def join(parts: Sequence["Masks"]) -> "Masks":
        """The masks of all parts, one after the other."""
        none = Masks.empty(0)
        return Masks(
            np.concatenate([none.boxes, *(part.boxes for part in parts)]),
            np.concatenate([none.bits, *(part.bits for part in parts)]),
        )

    @staticmethod
    def where(condition: NDArray[np.bool_], first: "Masks", second: "Masks") -> "Masks":
        """Like `numpy.where`: M masks, those of `first` where a bool [M] array is true, else `second`'s."""
        index = np.arange(len(first))
        return Masks.join([first, second]).select(np.where(condition, index, index + len(first)))

    def shifted(self, y: int, x: int) -> "Masks":
        """The same masks, moved by this many pixels; those without pixels stay as they are."""
        moved = self.boxes + np.array([y, x, y, x], np.int32)
        return Masks(np.where(self.boxes[:, 2:3] > 0, moved, self.boxes), self.bits)

    def united(self, groups: Sequence[NDArray[np.int_]]) -> "Masks":
        """One mask for each group of positions: the union of its masks."""
        return Masks.join(
            [self.select(group) if len(group) == 1 else self.select(group)._union() for group in groups]
        )

    def _union(self) -> "Masks":
        filled = self.boxes[self.boxes[:, 2] > 0]
        if not len(filled):
            return Masks.empty(1)
        (y0, x0), (y1, x1) = filled[:, :2].min(axis=0).tolist(), filled[:, 2:].max(axis=0).tolist()
        canvas = np.zeros((y1 - y0, x1 - x0), np.bool_)
        for box, crop in zip(self.boxes.tolist(), self.crops(), strict=True):
            canvas[box[0] - y0 : box[2] - y0, box[1] - x0 : box[3] - x0] |= crop
        return Masks.from_crops([canvas], [(y0, x0)])

    def _unpack(self, index: int, window: Sequence[int]) -> NDArray[np.uint8]:
        """0/1 pixels of one mask in a window that lies inside its box."""
        y0, x0, y1, x1 = self.boxes[index].tolist()
        top, left, bottom, right = window[0] - y0, window[1] - x0, window[2] - y0, window[3] - x0
        packed = self.bits[self.offsets[index] : self.offsets[index + 1]]
        rows = packed.reshape(y1 - y0, (x1 - x0 + 7) // 8)
        # Only the bytes that hold the window's columns are unpacked; `first` is the first of them.
        first = left // 8
        pixels = np.unpackbits(rows[top:bottom, first : (right + 7) // 8], axis=1)
        return pixels[:, left - 8 * first : right - 8 * first]


def packed_sizes(boxes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Bytes of each packed crop, int64 [M]: height times the width in whole bytes."""
    y0, x0, y1, x1 = boxes.astype(np.int64).T
    sizes: NDArray[np.int64] = (y1 - y0) * ((x1 - x0 + 7) // 8)
    return sizes


def offsets(sizes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Running sum with a leading zero: int64 [M] -> [M + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def iou(a: Masks, i: int, b: Masks, j: int) -> float:
    """Intersection over union of mask `i` of `a` and mask `j` of `b`; NaN when both are without pixels."""
    common = intersection(a, i, b, j)
    union = int(a.areas[i] + b.areas[j]) - common
    return common / union if union else float("nan")


def intersection(a: Masks, i: int, b: Masks, j: int) -> int:
    """Pixels that mask `i` of `a` and mask `j` of `b` share."""
    shared = _overlap(a.boxes[i].tolist(), b.boxes[j].tolist())
    return 0 if shared is None else int(np.count_nonzero(a._unpack(i, shared) & b._unpack(j, shared)))


def _overlap(a: Sequence[int], b: Sequence[int]) -> Box | None:
    """Intersection of two boxes; None if it is empty."""
    top, left, bottom, right = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (top, left, bottom, right) if top < bottom and left < right else None


def tight_box(mask: NDArray[np.bool_]) -> Box:
    """The smallest box around the pixels of a mask [H, W]; (0, 0, 0, 0) without any."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return (0, 0, 0, 0)
    y0, y1 = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[y0:y1].any(axis=0))
    return (y0, int(columns[0]), y1, int(columns[-1]) + 1)
