"""Which problem of a data set the mask of an annotation is, and what follows from a mask."""

from typing import Any, NamedTuple

from pycocotools import mask as coco_mask

from cache.segmentation import SegmentationError, check
from s4m_pipeline.data.findings import Problem


class MaskFault(NamedTuple):
    """What is wrong with one mask: the problem, and its detail in a few words."""

    problem: Problem
    detail: str


def mask_fault(segmentation: Any, height: int, width: int) -> MaskFault | None:
    """The first fault of a COCO `segmentation` of an image of this size in pixels, or None."""
    try:
        checked = check(segmentation, height, width)
    except SegmentationError as error:
        return MaskFault(Problem.MASK_FAULTY, str(error))
    if isinstance(checked, list):
        num_short = len(segmentation) - len(checked)
        detail = f"{num_short} of {len(segmentation)} polygons"
        return MaskFault(Problem.MASK_PART_SHORT, detail) if num_short else None
    return None if checked[1::2].any() else MaskFault(Problem.MASK_EMPTY, "RLE without a pixel")


def area_and_box(segmentation: Any, height: int, width: int) -> tuple[int, list[float]]:
    """Pixels of a mask, and the box [x, y, width, height] around them, in pixels.

    Raises:
        SegmentationError: as `check`.
    """
    checked = check(segmentation, height, width)
    if isinstance(checked, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(checked, height, width))
    else:
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": checked.tolist()}, height, width)
    return int(coco_mask.area(rle)), coco_mask.toBbox(rle).tolist()
