"""A COCO data set for mmdet's pipelines, read by our own checked reader."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets import BaseDetDataset
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData

from s4m_pipeline.core.locations import location
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.findings import Problem
from s4m_pipeline.data.images import ImageError, loading, read_rgb
from s4m_pipeline.data.segmentation import pack_segmentations
from s4m_pipeline.data.unlabeled import unlabeled_names
from s4m_pipeline.data.window_masks import WindowMasks


class CocoInstances(BaseDetDataset):
    """Images and instances of a COCO JSON; labels are numbered in the order of the category ids.

    Unlike mmdet's CocoDataset, paths cannot leave the image folder and labels do not depend on the order
    in which the JSON lists its categories. Images without objects are kept, as negative examples.

    Args:
        annotations: COCO JSON.
        images: folder of the images.
        pipeline: mmdet transforms.
        test_mode: also load images without usable annotations.
        only: COCO JSON or folder of the images that are used; None: all that the JSON lists.

    Raises:
        UserError: all errors of the JSON in one message.
    """

    def __init__(
        self,
        annotations: str,
        images: str,
        pipeline: list[dict[str, Any]],
        test_mode: bool = False,
        only: str | None = None,
    ) -> None:
        self._coco = load_coco(location(annotations), location(images), labeled=not test_mode)
        self._only = None if only is None else {number for number, _ in unlabeled_names(location(only))}
        super().__init__(
            ann_file=annotations,
            metainfo={"classes": tuple(self._coco.class_names)},
            pipeline=pipeline,
            test_mode=test_mode,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image; boxes x0, y0, x1, y1 in pixels, as mmdet has them, crowds ignored."""
        coco = self._coco
        del self._coco  # mmengine keeps its own packed copy, which workers share
        labels = {category.id: category.label for category in coco.categories}
        return [
            {
                "img_path": str(image.path),
                "img_id": image.id,
                "height": image.height,
                "width": image.width,
                "instances": [
                    _instance(annotation, labels)
                    for annotation in coco.annotations.get(image.id, [])
                    if annotation["id"] in coco.usable or annotation["iscrowd"]
                ],
            }
            for image in coco.images
            if self._only is None or image.id in self._only
        ]

    def prepare_data(self, idx: int) -> Any:
        """An image after the pipeline.

        Raises:
            LoadingError: if it cannot be read, or its size is not that of its annotations.
        """
        with loading():
            return super().prepare_data(idx)


def _instance(annotation: dict[str, Any], labels: dict[int, int]) -> dict[str, Any]:
    x, y, width, height = annotation["bbox"]
    return {
        "bbox": [x, y, x + width, y + height],
        "bbox_label": labels[annotation["category_id"]],
        "mask": annotation["segmentation"],
        "ignore_flag": annotation["iscrowd"],
    }


@TRANSFORMS.register_module()
class LoadRGB(BaseTransform):
    """Reads an image file with `read_rgb`, the project's only reader: upright, RGB, uint8.

    The model's preprocessor must therefore not swap channels (`bgr_to_rgb=False`).
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add `img` (H, W, 3) uint8 and its sizes.

        Raises:
            ImageError: naming the file, if it cannot be read, or its size is not that of its annotations.
        """
        path = location(results["img_path"])
        image, _ = read_rgb(path)
        given = results.get("height", image.shape[0]), results.get("width", image.shape[1])
        if image.shape[:2] != given:
            sizes = f"{image.shape[1]} x {image.shape[0]} pixels upright, listed as {given[1]} x {given[0]}"
            raise ImageError(path, Problem.SIZE_DIFFERS, f"is {sizes}: its annotations do not fit")
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results


@TRANSFORMS.register_module()
class LoadInstances(BaseTransform):
    """Gives the annotations of an image the names that mmdet's transforms expect; see `WindowMasks`.

    The masks, boxes, labels and flags are those of mmdet's `LoadAnnotations`, whose masks are arrays of the
    size of the image, and can also be rotated, sheared or translated.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add boxes (N, 4) float32 x0, y0, x1, y1, labels (N,) int64, masks, and flags (N,) of crowds."""
        instances, (height, width) = results["instances"], results["img_shape"]
        packed = pack_segmentations([instance["mask"] for instance in instances], height, width)
        boxes = np.array([instance["bbox"] for instance in instances], np.float32).reshape(-1, 4)
        results.update(
            gt_bboxes=HorizontalBoxes(boxes),
            gt_bboxes_labels=np.array([instance["bbox_label"] for instance in instances], np.int64),
            gt_masks=WindowMasks(packed, height, width),
            gt_ignore_flags=np.array([instance["ignore_flag"] for instance in instances], np.bool_),
        )
        return results


def collate_instances(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A training batch as lists, with only those annotations that Mask2Former learns from.

    Every tensor sent by a loading process costs a file handle and half a millisecond of the training process.
    So boxes are dropped and labels are sent as arrays: one tensor per image instead of three.
    """
    for sample in samples:
        annotated = sample["data_samples"]
        learned = annotated.gt_instances
        annotated.gt_instances = InstanceData(labels=learned.labels.numpy(), masks=learned.masks)
        if "weights" in learned:
            annotated.gt_instances.weights = learned.weights.numpy()
        if "ignored_instances" in annotated:
            del annotated.ignored_instances
    batch: dict[str, Any] = pseudo_collate(samples)
    return batch
