"""A COCO data set as mmdet's pipelines want it, read by our own checked reader."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcv.transforms import BaseTransform
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS
from mmengine.structures import InstanceData

from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.findings import Problem
from s4m_pipeline.data.images import ImageError, read_rgb
from s4m_pipeline.engine.loading import loading


@DATASETS.register_module()
class CocoInstances(BaseDetDataset):
    """Images and instances of a COCO JSON; labels are numbered in the order of the category ids.

    Unlike mmdet's CocoDataset, paths cannot leave the image folder and labels never depend on the order
    in which the JSON lists its categories. Images without objects are kept: they teach "no object".

    Args:
        annotations: COCO JSON.
        images: folder of the images.
        pipeline: mmdet transforms.
        test_mode: load what has no usable annotation as well.

    Raises:
        UserError: all errors of the JSON in one message.
    """

    def __init__(
        self, annotations: str, images: str, pipeline: list[dict[str, Any]], test_mode: bool = False
    ) -> None:
        self._coco = load_coco(Path(annotations), Path(images), labelled=not test_mode)
        super().__init__(
            ann_file=annotations,
            metainfo={"classes": tuple(self._coco.class_names)},
            pipeline=pipeline,
            test_mode=test_mode,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image; boxes xyxy in pixels, crowd regions flagged as ignored."""
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
        ]

    def prepare_data(self, idx: int) -> Any:
        """An image after the pipeline.

        Raises:
            LoadingError: if it cannot be read, or not in the size of its annotations.
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
    """Reads an image file by the project's one conversion: upright, RGB, uint8.

    The model's preprocessor must therefore not swap channels (`bgr_to_rgb=False`).
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add `img` (H, W, 3) uint8 and its sizes.

        Raises:
            ImageError: naming the file, if it cannot be read, or not in the size of its annotations.
        """
        path = Path(results["img_path"])
        image, _ = read_rgb(path)
        given = results.get("height", image.shape[0]), results.get("width", image.shape[1])
        if image.shape[:2] != given:
            sizes = f"{image.shape[1]} x {image.shape[0]} pixels upright, listed as {given[1]} x {given[0]}"
            raise ImageError(path, Problem.SIZE_DIFFERS, f"is {sizes}: its annotations do not fit")
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results


@FUNCTIONS.register_module()
def collate_instances(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A training batch as lists, of the annotations only what Mask2Former learns from.

    Every tensor that leaves a loading process takes a file handle and half a millisecond of the training
    process. So boxes stay behind, and labels leave as arrays: one tensor for an image instead of three.
    """
    for sample in samples:
        annotated = sample["data_samples"]
        learnt = annotated.gt_instances
        annotated.gt_instances = InstanceData(labels=learnt.labels.numpy(), masks=learnt.masks)
        if "ignored_instances" in annotated:
            del annotated.ignored_instances
    batch: dict[str, Any] = pseudo_collate(samples)
    return batch
