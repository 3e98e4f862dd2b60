"""A tiny data set of drawn scenes with the folders, file names and encodings of COCO 2017."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from s4m_cache.atomic import write_text
from s4m_pipeline.data.miniature.views import SEED_SPACE, claim_folder, draw_view, outlines
from s4m_pipeline.data.scenes.render import SceneObject

_NAMES = """
1 person, 2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat, 10 traffic light,
11 fire hydrant, 13 stop sign, 14 parking meter, 15 bench, 16 bird, 17 cat, 18 dog, 19 horse, 20 sheep,
21 cow, 22 elephant, 23 bear, 24 zebra, 25 giraffe, 27 backpack, 28 umbrella, 31 handbag, 32 tie, 33 suitcase,
34 frisbee, 35 skis, 36 snowboard, 37 sports ball, 38 kite, 39 baseball bat, 40 baseball glove, 41 skateboard,
42 surfboard, 43 tennis racket, 44 bottle, 46 wine glass, 47 cup, 48 fork, 49 knife, 50 spoon, 51 bowl,
52 banana, 53 apple, 54 sandwich, 55 orange, 56 broccoli, 57 carrot, 58 hot dog, 59 pizza, 60 donut, 61 cake,
62 chair, 63 couch, 64 potted plant, 65 bed, 67 dining table, 70 toilet, 72 tv, 73 laptop, 74 mouse,
75 remote, 76 keyboard, 77 cell phone, 78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator, 84 book,
85 clock, 86 vase, 87 scissors, 88 teddy bear, 89 hair drier, 90 toothbrush
"""

COCO_CATEGORIES = {
    name: int(number)
    for number, _, name in (entry.strip().partition(" ") for entry in _NAMES.replace("\n", " ").split(","))
}
"""The 80 categories of COCO: ids (with gaps, up to 90) by name, in the order of the ids."""

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
_EMPTY_EVERY = 11  # every eleventh image has no annotations, as some images of COCO
_OUTLINE_SCALE = 4


def last_file(folder: Path) -> Path:
    """The file that `write_coco` writes last."""
    return _json_path(folder, list(SUBSETS)[-1])


def write_coco(folder: Path, seed: int = 0) -> dict[str, int]:
    """Write `train2017`, `val2017` and `annotations`; the same seed gives the same bytes.

    As in COCO: images are JPEG files named by sparse ids and listed in no order; some have no annotations;
    objects are polygons, several for partly hidden objects; crowds are uncompressed run lengths; all 80
    categories are listed, of which 12 occur here.

    Returns:
        The number of images of each subset.

    Raises:
        UserError: the folder holds different data.
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
        if number % _EMPTY_EVERY != _EMPTY_EVERY - 1:
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
    """Annotations of one image; in some images all objects of one family form a crowd."""
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
    """Outlines [x0, y0, x1, y1, ...] of the parts of at least four pixels, with a precision of 1/4 pixel."""
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
