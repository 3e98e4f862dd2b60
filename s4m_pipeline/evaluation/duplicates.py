"""Duplicates: predictions of an image whose masks overlap a more confident one."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

DUPLICATE_IOU = 0.7
"""Lowest IoU of duplicates among predictions where `refine.nms_iou` is None: removing them lowered no AP that
was measured."""


def keep_first(overlaps: NDArray[np.bool_]) -> list[int]:
    """Positions that overlap no kept one before them; `overlaps` is (N, N)."""
    keep: list[int] = []
    for index in range(len(overlaps)):
        if not overlaps[index, keep].any():
            keep.append(index)
    return keep


def as_predicted(
    results: Iterable[Mapping[str, Any]], *, min_score: float, max_iou: float
) -> list[Mapping[str, Any]]:
    """COCO results (compressed RLE) as `s4m predict` writes them: without low scores and duplicates.

    Args:
        results: all predictions of any images.
        min_score: lowest score that is kept.
        max_iou: a mask that overlaps a more confident one, of whatever class, so much is left out.

    Returns:
        Those of each image by falling score.
    """
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for result in sorted(results, key=lambda result: -result["score"]):
        if result["score"] >= min_score:
            by_image[result["image_id"]].append(result)
    kept = []
    for found in by_image.values():
        masks = [result["segmentation"] for result in found]
        overlaps = coco_mask.iou(masks, masks, [0] * len(masks)) >= max_iou
        kept += [found[place] for place in keep_first(overlaps)]
    return kept
