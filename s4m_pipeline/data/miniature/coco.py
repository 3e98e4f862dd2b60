"""A tiny data set with the folders, file names and encodings of COCO 2017: drawn scenes as photos."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from cache.atomic import write_text
from s4m_pipeline.data.miniature.coco_categories import COCO_CATEGORIES
from s4m_pipeline.data.miniature.views import SEED_SPACE, claim_folder, draw_view, outlines
from s4m_pipeline.data.scenes.render import SceneObject

SUBSETS = {"train2017": 60, "val2017": 12}
SIZES = ((128, 160), (160, 128), (128, 128), (120, 180))
"""Heights and widths in pixels."""
CATEGORY_OF_FAMILY = {
    "figure": "person",
    "cart": "car",
    "boat": "boat",
    "stack": "train",
    "fish": "bird",
    "house": "clock",
    "tree": "potted plant",
    "bottle": "bottle",
    "flower": "pizza",
    "mushroom": "umbrella",
    "target": "sports ball",
    "blob": "teddy bear",
}
_CROWD_PROBABILITY = 0.2
_EVERY_EMPTY = 11  # each eleventh photo shows nothing: COCO has photos without annotations
_OUTLINE_SCALE = 4


def last_file(folder: Path) -> Path:
    """The file that `write_coco` writes last."""
    return _json_path(folder, list(SUBSETS)[-1])


def write_coco(folder: Path, seed: int = 0) -> dict[str, int]:
    """Write `train2017`, `val2017` and `annotations`; the same seed gives the same bytes.

    As in COCO: photos are JPEG files named by their sparse ids and listed in no order; some show nothing;
    objects are polygons, in several pieces where something hides them; crowds are uncompressed run lengths;
    all 80 categories are listed, of which 12 occur here.

    Returns:
        The number of photos of each subset.

    Raises:
        UserError: the folder holds other data.
        OSError: it cannot be written.
    """
    claim_folder(folder, "COCO", ("annotations", *SUBSETS))
    (folder / "annotations").mkdir(exist_ok=True)
    for stream, (subset, size) in enumerate(SUBSETS.items()):
        (folder / subset).mkdir(exist_ok=True)
        document = _write_photos(folder / subset, size, np.random.default_rng([SEED_SPACE, 1, seed, stream]))
        write_text(_json_path(folder, subset), json.dumps(document))
    return dict(SUBSETS)


def _json_path(folder: Path, subset: str) -> Path:
    return folder / "annotations" / f"instances_{subset}.json"


def _write_photos(folder: Path, size: int, rng: np.random.Generator) -> dict[str, Any]:
    images, annotations = [], []
    for number, image_id in enumerate(rng.permutation(np.cumsum(rng.integers(1, 9000, size))).tolist()):
        height, width = SIZES[rng.integers(len(SIZES))]
        scene = draw_view(rng, CATEGORY_OF_FAMILY, width, height)
        name = f"{image_id:012d}.jpg"
        (folder / name).write_bytes(_jpeg(scene.image))
        images.append({"license": 1, "file_name": name, "height": height, "width": width, "id": image_id})
        if number % _EVERY_EMPTY != _EVERY_EMPTY - 1:
            annotations += _annotate(scene.objects, image_id, first_id=100 * image_id, rng=rng)
    return {
        "info": {"description": "Drawn scenes in the layout of COCO 2017"},
        "licenses": [{"id": 1, "name": "Apache License 2.0"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in COCO_CATEGORIES.items()],
    }


def _annotate(
    objects: list[SceneObject], image_id: int, first_id: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Annotations of one photo; now and then all objects of one family are a crowd."""
    crowded = objects[0].family if objects and rng.random() < _CROWD_PROBABILITY else None
    shapes: list[tuple[str, Any]] = [
        (item.family, polygons)
        for item in objects
        if item.family != crowded and (polygons := _polygons(item.mask))
    ]
    crowd = [item.mask for item in objects if item.family == crowded]
    if crowded and crowd:
        shapes.append((crowded, run_lengths(np.any(crowd, axis=0))))
    height, width = objects[0].mask.shape if objects else (0, 0)
    return [
        _entry(segmentation, height, width)
        | {"image_id": image_id, "category_id": COCO_CATEGORIES[CATEGORY_OF_FAMILY[family]]}
        | {"id": first_id + place}
        for place, (family, segmentation) in enumerate(shapes)
    ]


def _entry(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    found = coco_mask.frPyObjects(segmentation, height, width)
    rle = coco_mask.merge(found) if isinstance(found, list) else found
    return {
        "segmentation": segmentation,
        "area": float(coco_mask.area(rle)),
        "iscrowd": int(isinstance(segmentation, dict)),
        "bbox": coco_mask.toBbox(rle).tolist(),
    }


def _polygons(mask: NDArray[np.bool_]) -> list[list[float]]:
    """Outlines [x0, y0, x1, y1, ...] of the pieces of at least four pixels, at quarters of a pixel."""
    enlarged = np.kron(mask, np.ones((_OUTLINE_SCALE, _OUTLINE_SCALE), bool))
    pieces = [piece for piece in outlines(enlarged) if _enclosed_px(piece) >= 4]
    return [((piece + 0.5) / _OUTLINE_SCALE).round(2).ravel().tolist() for piece in pieces]


def _enclosed_px(outline: NDArray[np.int32]) -> float:
    x, y = outline.T.astype(float)
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2 / _OUTLINE_SCALE**2


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Uncompressed COCO run lengths of a mask (H, W): by columns, background first."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff([0, *changes, mask.size]).tolist()
    return {"counts": counts, "size": list(mask.shape)}


def _jpeg(rgb: NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(rgb).save(content, "JPEG", quality=92)
    return content.getvalue()
