"""Encoders for the data sets that this project writes: PNG files and COCO annotations."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask


def png_bytes(rgb: npt.NDArray[np.uint8]) -> bytes:
    """Encode an RGB image, uint8 (H, W, 3), as PNG."""
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))
    assert encoded
    return data.tobytes()


def gray_png_bytes(gray: npt.NDArray[np.uint16]) -> bytes:
    """Encode a grayscale image, uint16 (H, W), as PNG of 16 bits."""
    encoded, data = cv2.imencode(".png", gray)
    assert encoded
    return data.tobytes()


def mask_annotation(
    mask: npt.NDArray[np.bool_], image_id: int, annotation_id: int, category_id: int, *, crowd: bool = False
) -> dict[str, Any]:
    """COCO annotation of an instance or crowd region with mask (H, W), as compressed RLE."""
    rle = coco_mask.encode(np.asfortranarray(mask).view(np.uint8))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        "area": int(mask.sum()),
        "bbox": coco_mask.toBbox(rle).tolist(),
        "iscrowd": int(crowd),
    }
