"""Ground truth masks of images whose annotations are only measured by, never trained on."""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from s4m_pipeline.data.coco import CocoData, CocoImage
from s4m_pipeline.errors import UserError
from s4m_pipeline.evaluation.pseudo_label_quality import LabelledMasks


def truth_masks(truth: CocoData, image: CocoImage) -> LabelledMasks:
    """The usable annotations of one image as dense masks."""
    annotations = truth.instances(image.id)
    labels = {category.id: category.label for category in truth.categories}
    masks = np.zeros((len(annotations), image.height, image.width), np.bool_)
    for mask, annotation in zip(masks, annotations, strict=True):
        mask[:] = _decode(annotation["segmentation"], image.height, image.width)
    return LabelledMasks(np.array([labels[a["category_id"]] for a in annotations], np.int64), masks)


def _decode(segmentation: object, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return np.asarray(coco_mask.decode(segmentation), bool)
    runs = coco_mask.frPyObjects(segmentation, height, width)
    return np.asarray(coco_mask.decode(coco_mask.merge(runs) if isinstance(runs, list) else runs), bool)


def require_same_classes(truth: CocoData, labelled: CocoData, remedy: str) -> None:
    """Refuse annotations of other classes than the labelled data's.

    Raises:
        UserError: naming both class lists, with the remedy.
    """
    if truth.class_names != labelled.class_names:
        raise UserError(
            f"{truth.json_path} has other classes than the labelled data.\n"
            f"  found: {', '.join(truth.class_names)}\n"
            f"  labelled: {', '.join(labelled.class_names)}\n{remedy}"
        )


def require_truth(truth: CocoData, images: Sequence[CocoImage], labelled: CocoData) -> None:
    """Refuse ground truth that does not belong to these images and classes.

    Raises:
        UserError: naming both class lists, or the images that are absent or of another file.
    """
    require_same_classes(
        truth, labelled, "Give a file with the same categories as refine.ground_truth, or None."
    )
    names = {image.id: image.file_name for image in truth.images}
    strangers = [image.file_name for image in images if names.get(image.id) != image.file_name]
    if strangers:
        raise UserError(
            f"{truth.json_path} is not the ground truth of the unlabelled images: {len(strangers)} of "
            f"{len(images)} are not in it under the same id and name, e.g. {', '.join(strangers[:3])}.\n"
            "Expected the JSON that they were split from. Correct refine.ground_truth, or leave it out."
        )
