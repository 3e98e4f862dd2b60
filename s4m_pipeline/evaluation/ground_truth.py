"""Ground truth masks, for evaluation only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from s4m_cache.masks import Masks
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.evaluation.pseudo_label_quality import LabeledMasks


def truth_masks(truth: CocoData, image: CocoImage) -> LabeledMasks:
    """The usable annotations of one image."""
    annotations = truth.instances(image.id)
    labels = {category.id: category.label for category in truth.categories}
    masks = [
        Masks.from_dense(_decode(annotation["segmentation"], image.height, image.width)[None])
        for annotation in annotations
    ]
    return LabeledMasks(
        np.array([labels[a["category_id"]] for a in annotations], np.int64), Masks.join(masks)
    )


def run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A COCO polygon list or RLE as one compressed RLE."""
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return segmentation
    runs = coco_mask.frPyObjects(segmentation, height, width)
    merged: dict[str, Any] = coco_mask.merge(runs) if isinstance(runs, list) else runs
    return merged


def _decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    return np.asarray(coco_mask.decode(run_lengths(segmentation, height, width)), bool)


def require_same_classes(truth: CocoData, labeled: CocoData, remedy: str) -> None:
    """Require that ground truth and labeled data have the same classes.

    Args:
        remedy: what to do next, for the message.

    Raises:
        UserError: naming both class lists.
    """
    if truth.class_names != labeled.class_names:
        raise UserError(
            f"{truth.json_path} has different classes than the labeled data.\n"
            f"  found: {', '.join(truth.class_names)}\n"
            f"  labeled: {', '.join(labeled.class_names)}\n{remedy}"
        )


def require_truth(truth: CocoData, images: Sequence[CocoImage], labeled: CocoData) -> None:
    """Require that ground truth belongs to these images and classes.

    Raises:
        UserError: naming both class lists, or the images that are missing or have a different file name.
    """
    require_same_classes(
        truth, labeled, "Set refine.ground_truth to a file with the same categories, or to None."
    )
    names = {image.id: image.file_name for image in truth.images}
    unknown = [image.file_name for image in images if names.get(image.id) != image.file_name]
    if unknown:
        raise UserError(
            f"{truth.json_path} is not the ground truth of the unlabeled images: {len(unknown)} of "
            f"{len(images)} are not in it with the same id and name, e.g. {', '.join(unknown[:3])}.\n"
            "Expected the JSON that they were split from. Correct refine.ground_truth, or remove it."
        )
