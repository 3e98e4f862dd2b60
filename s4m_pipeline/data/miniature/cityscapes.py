"""A tiny data set of drawn scenes with the folders, file names and encodings of Cityscapes."""

import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s4m_pipeline.data.cityscapes.labels import INSTANCE_CLASSES, INSTANCES_PER_LABEL, draw_polygons
from s4m_pipeline.data.cityscapes.layout import (
    ANNOTATIONS,
    INSTANCE_IDS_ENDING,
    LABEL_IDS_ENDING,
    PHOTO_ENDING,
    PHOTOS,
    POLYGONS_ENDING,
)
from s4m_pipeline.data.miniature.views import SEED_SPACE, claim_folder, draw_view, outlines
from s4m_pipeline.data.scenes.render import Scene, SceneObject
from s4m_pipeline.data.writing import png_bytes

WIDTH, HEIGHT = 256, 128
CITIES = {"train": ("altdorf", "neudorf", "seeburg", "waldau"), "val": ("bergheim", "talheim")}
FRAMES_PER_CITY = {"train": 10, "val": 5}
CLASS_OF_FAMILY = {
    "figure": "person",
    "bottle": "rider",
    "cart": "car",
    "house": "truck",
    "boat": "bus",
    "tree": "train",
    "fish": "motorcycle",
    "flower": "bicycle",
    "mushroom": "caravan",
}
EGO_VEHICLE_PX = 8
_GROUP_PROBABILITY = 0.4
_SMALLEST_OBJECT_PX = 20


def last_file(folder: Path) -> Path:
    """The file that `write_cityscapes` writes last."""
    return _path(folder, ANNOTATIONS, "val", CITIES["val"][-1], FRAMES_PER_CITY["val"] - 1, POLYGONS_ENDING)


def write_cityscapes(folder: Path, seed: int = 0) -> dict[str, int]:
    """Write `leftImg8bit` and `gtFine` with images of 128 x 256 pixels; the same seed gives the same bytes.

    As in Cityscapes, polygons are the annotation and the id images are drawn from them. There are groups of
    objects annotated together, caravans (annotated, not evaluated), license plates (never drawn), unlabeled
    ground, and the ego vehicle.

    Returns:
        The number of frames of each split.

    Raises:
        UserError: the folder holds different data.
        OSError: it cannot be written.
    """
    claim_folder(folder, "Cityscapes", (PHOTOS, ANNOTATIONS))
    for stream, (split, cities) in enumerate(CITIES.items()):
        for number, city in enumerate(cities):
            for index in range(FRAMES_PER_CITY[split]):
                rng = np.random.default_rng([SEED_SPACE, seed, stream, number, index])
                _write_frame(folder, split, city, index, rng)
    return {split: len(cities) * FRAMES_PER_CITY[split] for split, cities in CITIES.items()}


def _write_frame(folder: Path, split: str, city: str, index: int, rng: np.random.Generator) -> None:
    scene = draw_view(rng, CLASS_OF_FAMILY, WIDTH, HEIGHT)
    photo = scene.image.copy()
    photo[-EGO_VEHICLE_PX:] //= 3
    document = _annotate(scene, rng)
    values = draw_polygons(document, WIDTH, HEIGHT)
    label_ids = np.where(values < INSTANCES_PER_LABEL, values, values // INSTANCES_PER_LABEL)
    contents = (
        (PHOTOS, PHOTO_ENDING, png_bytes(photo)),
        (ANNOTATIONS, INSTANCE_IDS_ENDING, _gray_png(values.astype(np.uint16))),
        (ANNOTATIONS, LABEL_IDS_ENDING, _gray_png(label_ids.astype(np.uint8))),
        (ANNOTATIONS, POLYGONS_ENDING, json.dumps(document).encode()),
    )
    for kind, ending, content in contents:
        path = _path(folder, kind, split, city, index, ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _path(folder: Path, kind: str, split: str, city: str, index: int, ending: str) -> Path:
    return folder / kind / split / city / f"{city}_{index:06d}_000019{ending}"


def _annotate(scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """The content of a polygons file; later polygons cover earlier ones."""
    horizon = int(rng.integers(HEIGHT // 4, HEIGHT // 2))
    objects = [
        _rectangle("sky", 0, 0, WIDTH - 1, horizon // 2),
        _rectangle("building", 0, horizon // 2 + 1, WIDTH // 2, horizon),  # the right half is unlabeled
        _rectangle("road", 0, horizon + 1, WIDTH - 1, HEIGHT - 1),
        _rectangle("static", WIDTH - 40, HEIGHT // 2, WIDTH - 20, HEIGHT // 2 + 12),
    ]
    grouped = _grouped_family(scene.objects, rng)
    for item in scene.objects:
        outline = outlines(item.mask)[0]
        if item.mask.sum() < _SMALLEST_OBJECT_PX or len(outline) < 3:
            continue
        label = CLASS_OF_FAMILY[item.family] + ("group" if item.family == grouped else "")
        objects.append({"label": label, "polygon": outline.tolist()})
        if label == "car":
            x, y = outline.mean(axis=0).astype(int).tolist()
            objects.append(_rectangle("license plate", x - 2, y - 1, x + 2, y + 1))
    objects.append(_rectangle("ego vehicle", 0, HEIGHT - EGO_VEHICLE_PX, WIDTH - 1, HEIGHT - 1))
    objects.append(_rectangle("out of roi", 0, 0, 1, HEIGHT - 1))
    return {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}


def _grouped_family(objects: list[SceneObject], rng: np.random.Generator) -> str | None:
    """The family whose objects are annotated as a group in this scene, if any."""
    counts: dict[str, int] = defaultdict(int)
    for item in objects:
        counts[item.family] += CLASS_OF_FAMILY[item.family] in INSTANCE_CLASSES
    several = [family for family, count in counts.items() if count > 1]
    return several[0] if several and rng.random() < _GROUP_PROBABILITY else None


def _rectangle(label: str, left: int, top: int, right: int, bottom: int) -> dict[str, Any]:
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return {"label": label, "polygon": corners}


def _gray_png(values: NDArray[np.unsignedinteger[Any]]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG")
    return content.getvalue()
