"""Transforms that give an image its depth map as a fourth channel; `data.depth` puts them into pipelines."""

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.locations import location
from s4m_pipeline.data.depth_files import read_depth


@TRANSFORMS.register_module()
class LoadDepth(BaseTransform):
    """Reads the depth map of an image.

    It travels as mmdet's map of semantic labels, which geometric transforms move with the image, without
    mixing values of neighboring pixels, and photometric ones leave alone.

    Args:
        folder: name of the folder of depth maps; see `depth_files`.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add `gt_seg_map` (H, W) uint8.

        Raises:
            UserError: if the image is not a file; as `read_depth`.
        """
        if results["img_path"] is None:
            raise UserError(
                "The network needs a depth map beside each image (data.depth); an image in memory has none.\n"
                "Give the image as a file."
            )
        path = location(results["img_path"])
        results["gt_seg_map"] = read_depth(path, self.folder, results["img_shape"][:2])
        return results


@TRANSFORMS.register_module()
class StackDepth(BaseTransform):
    """Makes the depth map the fourth channel of the image, once both have their final geometry."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace `img` (H, W, 3) and `gt_seg_map` (H, W) by `img` (H, W, 4) of the dtype of `img`."""
        depth = results.pop("gt_seg_map")
        results["img"] = np.dstack([results["img"], depth.astype(results["img"].dtype)])
        return results
