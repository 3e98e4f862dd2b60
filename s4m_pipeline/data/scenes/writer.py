"""Write the embedded data set: procedural scenes as PNG images and COCO JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from cache.atomic import write_bytes, write_text
from s4m_pipeline.data.scenes.render import Scene, SceneStyle, draw_scene
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES, Family


@dataclass(frozen=True)
class Subset:
    """One part of the data set; `stream` keeps its scenes apart from every other subset's."""

    name: str
    stream: int
    size: int


DEMO_SUBSETS = (Subset("train", 0, 400), Subset("val", 1, 100), Subset("test", 2, 100))
DEMO_SEED_SPACE = 4  # first word of the generators' seeds: no other scenes of the project use it


def write_demo(
    folder: Path,
    seed: int = 0,
    subsets: tuple[Subset, ...] = DEMO_SUBSETS,
    families: dict[str, Family] = DEMO_FAMILIES,
    style: SceneStyle | None = None,
) -> dict[str, int]:
    """Write `folder/<subset>/*.png` and `folder/<subset>.json`; the same seed gives the same bytes.

    Returns:
        The number of annotated objects in each subset.

    Raises:
        OSError: if the folder cannot be written.
    """
    style = style or SceneStyle()
    counts = {}
    for subset in subsets:
        images_folder = folder / subset.name
        images_folder.mkdir(parents=True, exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(subset.size):
            rng = np.random.default_rng([DEMO_SEED_SPACE, seed, subset.stream, index])
            scene = draw_scene(rng, families, style)
            name = f"{subset.name}_{index:05d}.png"
            write_bytes(images_folder / name, _png(scene))
            height, width = scene.image.shape[:2]
            images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
            annotations += _annotations(scene, index + 1, len(annotations) + 1, list(families))
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(families)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_text(folder / f"{subset.name}.json", json.dumps(content))
        counts[subset.name] = len(annotations)
    return counts


def _png(scene: Scene) -> bytes:
    encoded, data = cv2.imencode(".png", scene.image[..., ::-1])
    assert encoded
    return data.tobytes()


def _annotations(scene: Scene, image_id: int, first_id: int, names: list[str]) -> list[dict[str, Any]]:
    annotations = []
    for offset, item in enumerate(scene.objects):
        rle = coco_mask.encode(np.asfortranarray(item.mask.astype(np.uint8)))
        annotations.append(
            {
                "id": first_id + offset,
                "image_id": image_id,
                "category_id": names.index(item.family) + 1,
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                "area": int(item.mask.sum()),
                "bbox": coco_mask.toBbox(rle).tolist(),
                "iscrowd": 0,
            }
        )
    return annotations
