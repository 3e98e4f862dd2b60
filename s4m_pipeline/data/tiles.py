"""Large images in overlapping tiles: where these lie, and how what they show becomes one set of instances.

A tile is predicted, and refined, as if it were an image of its own. Neighbors see the pixels of their overlap
both, so an object there is found twice, and one at the border of a tile is seen in part only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from s4m_cache.masks import MATCH_IOU, Box, Masks

_COVERED = 0.5
"""An instance with more than this fraction of its pixels in another one is a second view of it."""
_BORDER = 128
"""An instance that ends within 1/128 of a tile's side from its border may continue beyond it."""


class Tile(NamedTuple):
    """A part of an image: boxes y0, x0, y1, x1, ends exclusive."""

    input_box: Box
    """In pixels of the network's input."""
    image_box: Box
    """In pixels of the original image."""


def size_of(box: Box) -> tuple[int, int]:
    """Height and width."""
    return box[2] - box[0], box[3] - box[1]


@dataclass(frozen=True)
class Tiling:
    """How large inputs of the network are cut."""

    size_px: int
    """Side of a tile, in pixels of the network's input."""
    overlap_px: int
    """Pixels that neighbors share, at least."""

    @classmethod
    def of(cls, test_cfg: Mapping[str, Any] | None) -> "Tiling | None":
        """What a model's `test_cfg` says; None: inputs are not cut."""
        given = (test_cfg or {}).get("tiles")
        return None if given is None else cls(**given)

    def cut(self, input_hw_px: tuple[int, int], image_hw_px: tuple[int, int]) -> list[Tile]:
        """Tiles of one size that cover an input of this size, row by row; one tile if it is no larger.

        Args:
            input_hw_px: height and width of the network's input, without padding.
            image_hw_px: of the original image, which was scaled to it.
        """
        (input_height, input_width), (height, width) = input_hw_px, image_hw_px
        rows = [(span, _scaled(span, height / input_height)) for span in self._spans(input_height)]
        columns = [(span, _scaled(span, width / input_width)) for span in self._spans(input_width)]
        return [
            Tile((y0, x0, y1, x1), (top, left, bottom, right))
            for (y0, y1), (top, bottom) in rows
            for (x0, x1), (left, right) in columns
        ]

    def _spans(self, length: int) -> list[tuple[int, int]]:
        """Evenly spread, so that all overlaps are alike."""
        if length <= self.size_px:
            return [(0, length)]
        gaps = -(-(length - self.size_px) // (self.size_px - self.overlap_px))
        starts = [number * (length - self.size_px) // gaps for number in range(gaps + 1)]
        return [(start, start + self.size_px) for start in starts]


def _scaled(span: tuple[int, int], factor: float) -> tuple[int, int]:
    start = round(span[0] * factor)
    return start, max(round(span[1] * factor), start + 1)


@dataclass(frozen=True, eq=False)
class Views:
    """What the tiles of one image show: N instances.

    Attributes:
        tiles: T boxes in pixels of the image.
        tile: int (N,), the tile that shows the instance.
        labels: int64 (N,).
        scores: float32 (N,).
        masks: in pixels of the image, inside the instance's tile.
    """

    tiles: Sequence[Box]
    tile: NDArray[np.int_]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    masks: Masks

    @classmethod
    def join(
        cls,
        tiles: Sequence[Box],
        labels: Sequence[NDArray[np.int64]],
        scores: Sequence[NDArray[np.float32]],
        masks: Sequence[Masks],
    ) -> "Views":
        """Of each tile its labels, scores, and masks in pixels of the tile."""
        counts = [len(of_tile) for of_tile in labels]
        return cls(
            tiles,
            np.repeat(np.arange(len(tiles)), counts),
            np.concatenate(labels),
            np.concatenate(scores),
            in_image(tiles, masks),
        )


def in_image(tiles: Sequence[Box], masks: Sequence[Masks]) -> Masks:
    """The masks of all tiles, from pixels of their tile to pixels of the image."""
    return Masks.join([part.shifted(box[0], box[1]) for box, part in zip(tiles, masks, strict=True)])


class Merged(NamedTuple):
    """An image's instances as groups of views, by falling score."""

    groups: list[NDArray[np.int_]]
    """Positions of the views whose masks are united, the largest one first."""
    scores: NDArray[np.float32]
    """The highest one of each group."""

    @property
    def largest(self) -> NDArray[np.int_]:
        """(M,) the largest view of each group, which stands for it where views are not united."""
        return np.array([group[0] for group in self.groups], np.int64)


def merge(views: Views) -> Merged:
    """Find the views of one instance.

    Only views of one class in overlapping tiles are compared, by their pixels in the overlap. A view is whole
    unless it ends at a border of its tile inside the image, where the object may continue.

    1. A view is dropped if a whole one with a higher score shows the same object: if more than half of its
       pixels lie in that one where it is cut itself, if their IoU within the overlap is above 0.5 where not.
    2. Of those left, two with an IoU above 0.5 within the overlap are one instance, of which the masks are
       united. Each is joined with at most one view of the other tile, best pairs first (by IoU times the
       lower score). An object longer than two tiles is joined from tile to tile.

    The score of an instance is the highest one of its views.
    """
    compared = [list(_compare(views, zone)) for zone in _overlaps(views.tiles)]
    left = ~_second_views(views, [pair for of_zone in compared for pair in of_zone])
    instance = np.arange(len(left))
    for of_zone in compared:
        for pair in _best_pairs(
            views.scores, [pair for pair in of_zone if left[[pair.first, pair.second]].all()]
        ):
            instance[instance == instance[pair.second]] = instance[pair.first]
    groups = [np.flatnonzero(left & (instance == number)) for number in np.unique(instance[left])]
    groups = [group[np.argsort(-views.masks.areas[group], kind="stable")] for group in groups]
    scores = np.array([views.scores[group].max() for group in groups], np.float32)
    order = np.argsort(-scores, kind="stable")
    return Merged([groups[place] for place in order], scores[order])


class _Pair(NamedTuple):
    """Two views of one class in overlapping tiles, which share pixels."""

    first: int
    second: int
    iou: float
    """Of their pixels within the overlap."""
    first_covered: float
    """Fraction of the first one's pixels that lie in the second one."""
    second_covered: float


class _Zone(NamedTuple):
    """The overlap of two tiles."""

    first: int
    second: int
    box: Box


def _overlaps(tiles: Sequence[Box]) -> Iterator[_Zone]:
    for first, a in enumerate(tiles):
        for second, b in enumerate(tiles[first + 1 :], first + 1):
            box = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
            if box[0] < box[2] and box[1] < box[3]:
                yield _Zone(first, second, box)


def _compare(views: Views, zone: _Zone) -> Iterator[_Pair]:
    first, first_bits = _inside(views, zone.first, zone.box)
    second, second_bits = _inside(views, zone.second, zone.box)
    second_area = _count(second_bits)
    for view, bits in zip(first, first_bits, strict=True):
        same = np.flatnonzero(views.labels[second] == views.labels[view])
        shared, area = _count(second_bits[same] & bits), _count(bits)
        for place, common in zip(same[shared > 0], shared[shared > 0].tolist(), strict=True):
            other = second[place]
            yield _Pair(
                int(view),
                int(other),
                common / (int(area) + int(second_area[place]) - common),
                common / int(views.masks.areas[view]),
                common / int(views.masks.areas[other]),
            )


def _second_views(views: Views, pairs: Sequence[_Pair]) -> NDArray[np.bool_]:
    """(N,) the views that rule 1 drops; of equal scores, the first one counts as higher."""
    rank = np.empty(len(views.scores), np.int64)
    rank[np.argsort(-views.scores, kind="stable")] = np.arange(len(rank))
    is_cut, second = _is_cut(views), np.zeros(len(rank), np.bool_)
    for pair in pairs:
        for view, other, covered in (
            (pair.first, pair.second, pair.first_covered),
            (pair.second, pair.first, pair.second_covered),
        ):
            same = covered > _COVERED if is_cut[view] else pair.iou > MATCH_IOU
            second[view] |= same and not is_cut[other] and rank[other] < rank[view]
    return second


def _best_pairs(scores: NDArray[np.float32], pairs: Sequence[_Pair]) -> Iterator[_Pair]:
    """The pairs of an overlap that rule 2 unites."""
    quality = [pair.iou * min(scores[pair.first], scores[pair.second]) for pair in pairs]
    taken: set[int] = set()
    for place in np.argsort(-np.array(quality), kind="stable"):
        pair = pairs[place]
        if pair.iou > MATCH_IOU and not taken & {pair.first, pair.second}:
            taken |= {pair.first, pair.second}
            yield pair


def _inside(views: Views, tile: int, zone: Box) -> tuple[NDArray[np.int_], NDArray[np.uint8]]:
    """The views of a tile whose boxes meet a zone, and their pixels in it, eight to a byte."""
    boxes = views.masks.boxes
    meets = (boxes[:, :2] < zone[2:]).all(axis=1) & (boxes[:, 2:] > zone[:2]).all(axis=1)
    found = np.flatnonzero(meets & (views.tile == tile))
    masks, size = views.masks.select(found), (zone[2] - zone[0]) * (zone[3] - zone[1])
    bits = np.zeros((len(found), -(-size // 8)), np.uint8)
    for row, mask in zip(bits, masks.each(zone), strict=True):
        row[:] = np.packbits(mask)
    return found, bits


def _count(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels in each row of packed ones."""
    return np.bitwise_count(bits).sum(axis=-1, dtype=np.int64)


def _is_cut(views: Views) -> NDArray[np.bool_]:
    """(N,) whether a view ends at a border of its tile that lies inside the image."""
    tiles = np.array(views.tiles, np.int64).reshape(-1, 4)
    image_end = tiles[:, 2:].max(axis=0, initial=0)
    own, boxes = tiles[views.tile], views.masks.boxes
    margin = (own[:, 2:] - own[:, :2]) // _BORDER
    starts = (own[:, :2] > 0) & (boxes[:, :2] <= own[:, :2] + margin)
    ends = (own[:, 2:] < image_end) & (boxes[:, 2:] >= own[:, 2:] - margin)
    cut: NDArray[np.bool_] = (starts | ends).any(axis=1)
    return cut
