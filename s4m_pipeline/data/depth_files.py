"""Files of depth maps: a folder beside those of the images, with their names.

The depth map of `ROOT/train/a.jpg` is `ROOT/FOLDER/train/a.png`, where FOLDER is `data.depth` and ROOT the
nearest folder above the image that has such a folder. It is a grayscale PNG of 16 (or 8) bits in the size of
the upright image. Larger values are nearer in all images, or farther in all. Only the order within an image
counts: its range is scaled to 0..255.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.images import read_gray

_EXPECTED = (
    "Expected a grayscale PNG for each image, with its name and size, in the folder that data.depth names, "
    "beside the folder of images; `s4m data depth` makes one."
)


def depth_file(image: Path, folder: str) -> Path:
    """Where the depth map of an image has to be.

    Raises:
        UserError: if no folder above the image has a folder of depth maps.
    """
    for root in image.parents:
        if (root / folder).is_dir():
            return (root / folder / image.relative_to(root)).with_suffix(".png")
    raise UserError(
        f"{image}: there is no folder {folder} of depth maps beside its folder, or above.\n"
        f"{_EXPECTED} Or set data.depth to None to do without depth."
    )


def require_depth(images: Iterable[CocoImage], folder: str) -> None:
    """Refuse images without a depth map.

    Raises:
        UserError: naming the first of them and how many there are.
    """
    missing = [path for path in (depth_file(image.path, folder) for image in images) if not path.is_file()]
    if missing:
        raise UserError(f"{len(missing)} depth maps are missing, such as {missing[0]}.\n{_EXPECTED}")


def read_depth(image: Path, folder: str, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """The depth map of an image, (H, W), its range scaled to 0..255; all 0 if it is flat.

    Args:
        size_hw: of the upright image in pixels.

    Raises:
        UserError: if it is missing, cannot be read, or has a different size.
    """
    path = depth_file(image, folder)
    if not path.is_file():
        raise UserError(f"{image}: its depth map {path} is missing.\n{_EXPECTED}")
    depth = read_gray(path).astype(np.float32)
    if depth.shape != size_hw:
        found, expected = (f"{width} x {height}" for height, width in (depth.shape, size_hw))
        raise UserError(f"{path}: is {found} pixels, its image {expected}.\n{_EXPECTED}")
    low, high = depth.min(), depth.max()
    return np.round((depth - low) * (255 / max(high - low, 1))).astype(np.uint8)
