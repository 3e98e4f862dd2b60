"""An example data set from a real photograph: 24 antique coins, shipped with scikit-image.

The masks come from a watershed, not from annotators. The photograph (Greek coins from Pompeii, Brooklyn
Museum, no known copyright restrictions) is cut into four disjoint regions; the tiles of a region overlap.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from s4m_cache.atomic import write_bytes, write_text
from s4m_pipeline.data.writing import mask_annotation, png_bytes

TILE_PX = 112
"""Side of a tile in the photograph, where coins are 35 to 70 px wide."""
ENLARGED_PX = 128
"""Side of a written tile."""
_SMALLEST_AREA_PX = 150
"""Parts of a coin at a tile's edge with fewer pixels (of the enlarged tile) are not annotated."""


@dataclass(frozen=True)
class Region:
    """A rectangle of the photograph and the stride of its tiles, in pixels."""

    name: str
    left: int
    top: int
    right: int
    bottom: int
    step_px: int
    annotated: bool = True

    @property
    def json_name(self) -> str:
        """Name of its annotation file; annotations of unlabeled tiles serve for evaluation only."""
        return f"{self.name}.json" if self.annotated else f"{self.name}_truth.json"


REGIONS = (
    Region("train", 0, 0, 130, 150, step_px=17),
    Region("val", 0, 150, 130, 303, step_px=18),
    Region("unlabeled", 130, 0, 242, 303, step_px=8, annotated=False),
    Region("test", 242, 0, 384, 303, step_px=30),
)
"""Left: annotated, the upper half for training; middle: unlabeled; right: test."""


def write_coins(folder: Path) -> dict[str, tuple[int, int]]:
    """Write a folder of PNG tiles and a COCO JSON for each region.

    Returns:
        Number of tiles and number of annotated instances of each region.

    Raises:
        OSError: if the folder cannot be written.
    """
    from skimage.data import coins

    photo: npt.NDArray[np.uint8] = coins()
    labels = segment_coins(photo)
    return {region.name: _write_region(folder, region, photo, labels) for region in REGIONS}


def segment_coins(photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Coin number of each pixel, 0 for background; int32 (H, W).

    Watershed of the Sobel gradient from clearly dark and clearly bright markers; holes are filled and small
    components dropped.
    """
    from scipy import ndimage
    from skimage.filters import sobel
    from skimage.segmentation import watershed

    markers = np.zeros(photo.shape, np.int32)
    markers[photo < 30], markers[photo > 150] = 1, 2
    bright = watershed(sobel(photo), markers) == 2
    pieces, _ = ndimage.label(ndimage.binary_fill_holes(bright))
    areas = np.bincount(pieces.ravel())
    coins = [piece for piece in range(1, areas.size) if areas[piece] >= 100]
    renumbered = np.zeros(areas.size, np.int32)
    renumbered[coins] = np.arange(1, len(coins) + 1)
    return renumbered[pieces]


def _write_region(
    folder: Path, region: Region, photo: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32]
) -> tuple[int, int]:
    images_folder = folder / region.name
    images_folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for top in _starts(region.top, region.bottom, region.step_px):
        for left in _starts(region.left, region.right, region.step_px):
            tile = np.s_[top : top + TILE_PX, left : left + TILE_PX]
            name = f"{region.name}_{top:03d}_{left:03d}.png"
            size = (ENLARGED_PX, ENLARGED_PX)
            gray = cv2.resize(photo[tile], size, interpolation=cv2.INTER_CUBIC)
            write_bytes(images_folder / name, png_bytes(np.repeat(gray[..., None], 3, axis=2)))
            image_id = len(images) + 1
            images.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
            for coin in filter(None, np.unique(labels[tile])):
                mask = cv2.resize((labels[tile] == coin).astype(np.float32), size) > 0.5
                if mask.sum() >= _SMALLEST_AREA_PX:
                    annotations.append(mask_annotation(mask, image_id, len(annotations) + 1, 1))
    categories = [{"id": 1, "name": "coin"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(folder / region.json_name, json.dumps(content))
    return len(images), len(annotations)


def _starts(first: int, end: int, step: int) -> list[int]:
    """First pixels of the tiles between two borders: every `step` pixels, as long as a whole tile fits."""
    return list(range(first, end - TILE_PX + 1, step))
