"""Differences between two generations, instance by instance."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from s4m_cache.errors import CacheError
from s4m_cache.masks import MATCH_IOU, iou
from s4m_cache.reader import CacheReader
from s4m_cache.records import Instances


@dataclass(frozen=True)
class ImageChange:
    """Differences between two label sets of one image; `ious` are those of the matched instances."""

    image_id: int
    gained: int
    lost: int
    relabeled: int
    ious: tuple[float, ...]


@dataclass(frozen=True)
class Change:
    """Differences between two generations over the images that both have.

    Attributes:
        num_images: images compared: all that are in both, unless limited.
        only_old, only_new: images in only one of them.
        num_changed: images with an instance gained, lost or relabeled.
        gained, lost: instances without a match in the old, the new generation.
        kept: matched instances of the same class.
        relabeled: matched instances of different classes.
        mean_iou: mean IoU of all matches; NaN without any.
    """

    num_images: int
    only_old: int
    only_new: int
    num_changed: int
    gained: int
    lost: int
    kept: int
    relabeled: int
    mean_iou: float


def compare(old: CacheReader, new: CacheReader, *, max_images: int | None = None) -> Change:
    """Compare the refined masks of two generations.

    Args:
        max_images: compare at most this many images, spread evenly over those that both have.

    Raises:
        CacheError: if their class lists differ.
        DamagedError: if labels are damaged.
    """
    if old.generation.spec.classes != new.generation.spec.classes:
        raise CacheError(
            f"{old.generation.path} and {new.generation.path} have different classes: labels are comparable "
            "only between generations of the same classes"
        )
    both = np.intersect1d(old.image_ids, new.image_ids, assume_unique=True)
    num_both = both.size
    if max_images is not None:
        both = both[:: -(-both.size // max_images) or 1]
    changes = [
        compare_image(image_id, old.read(image_id).instances, new.read(image_id).instances)
        for image_id in both.tolist()
    ]
    ious = [value for change in changes for value in change.ious]
    relabeled = sum(change.relabeled for change in changes)
    return Change(
        num_images=both.size,
        only_old=len(old) - num_both,
        only_new=len(new) - num_both,
        num_changed=sum(bool(change.gained or change.lost or change.relabeled) for change in changes),
        gained=sum(change.gained for change in changes),
        lost=sum(change.lost for change in changes),
        kept=len(ious) - relabeled,
        relabeled=relabeled,
        mean_iou=float(np.mean(ious)) if ious else float("nan"),
    )


def compare_image(image_id: int, old: Instances, new: Instances) -> ImageChange:
    """Match two label sets of an image greedily by falling IoU, regardless of the classes."""
    matches = list(_matches(old, new))
    return ImageChange(
        image_id=image_id,
        gained=len(new) - len(matches),
        lost=len(old) - len(matches),
        relabeled=sum(int(old.labels[i] != new.labels[j]) for i, j, _ in matches),
        ious=tuple(value for _, _, value in matches),
    )


def _matches(old: Instances, new: Instances) -> Iterator[tuple[int, int, float]]:
    pairs = [(iou(old.masks, i, new.masks, j), i, j) for i in range(len(old)) for j in range(len(new))]
    taken_old, taken_new = set[int](), set[int]()
    for value, i, j in sorted((pair for pair in pairs if pair[0] > MATCH_IOU), reverse=True):
        if i not in taken_old and j not in taken_new:
            taken_old.add(i)
            taken_new.add(j)
            yield i, j, value
