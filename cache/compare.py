"""What changed between two generations, instance by instance."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cache.errors import CacheError
from cache.masks import MATCH_IOU, iou
from cache.reader import CacheReader
from cache.records import Instances


@dataclass(frozen=True)
class ImageChange:
    """How the labels of one image differ; `ious` are those of the matched instances."""

    image_id: int
    gained: int
    lost: int
    relabelled: int
    ious: tuple[float, ...]


@dataclass(frozen=True)
class Change:
    """How two generations differ over the images that both have.

    Attributes:
        num_images: images compared: all that are in both, unless that was limited.
        only_old, only_new: images in one of them.
        num_changed: images with an instance gained, lost or relabelled.
        gained, lost: instances without a match in the other.
        kept: matched instances of the same class.
        relabelled: matched instances of another class.
        mean_iou: mean IoU of all matches; NaN without any.
    """

    num_images: int
    only_old: int
    only_new: int
    num_changed: int
    gained: int
    lost: int
    kept: int
    relabelled: int
    mean_iou: float


def compare(old: CacheReader, new: CacheReader, *, max_images: int | None = None) -> Change:
    """Compare the refined masks of two generations.

    Args:
        max_images: look at so many images at most, spread evenly over those that both have.

    Raises:
        CacheError: if their class lists differ, so that labels cannot be compared.
        DamagedError: if labels are damaged.
    """
    if old.generation.spec.classes != new.generation.spec.classes:
        raise CacheError(
            f"{old.generation.path} and {new.generation.path} have different classes; nothing to compare"
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
    relabelled = sum(change.relabelled for change in changes)
    return Change(
        num_images=both.size,
        only_old=len(old) - num_both,
        only_new=len(new) - num_both,
        num_changed=sum(bool(change.gained or change.lost or change.relabelled) for change in changes),
        gained=sum(change.gained for change in changes),
        lost=sum(change.lost for change in changes),
        kept=len(ious) - relabelled,
        relabelled=relabelled,
        mean_iou=float(np.mean(ious)) if ious else float("nan"),
    )


def compare_image(image_id: int, old: Instances, new: Instances) -> ImageChange:
    """Match two label sets of an image greedily, the best overlap first, whatever the classes."""
    matches = list(_matches(old, new))
    return ImageChange(
        image_id=image_id,
        gained=len(new) - len(matches),
        lost=len(old) - len(matches),
        relabelled=sum(int(old.labels[i] != new.labels[j]) for i, j, _ in matches),
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
