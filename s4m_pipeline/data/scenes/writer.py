"""Write the embedded data set: procedural scenes as PNG images and COCO JSON."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s4m_cache.atomic import write_bytes, write_text
from s4m_pipeline.data.scenes.render import Scene, SceneStyle, draw_scene
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES, Family
from s4m_pipeline.data.writing import gray_png_bytes, mask_annotation, png_bytes


@dataclass(frozen=True)
class Subset:
    """One part of the data set; `stream` keeps its scenes apart from every other subset's."""

    name: str
    stream: int
    size: int


DEMO_SUBSETS = (Subset("train", 0, 400), Subset("val", 1, 100), Subset("test", 2, 100))
DrawScene = Callable[[np.random.Generator, dict[str, Family]], Scene]
DEMO_SEED_SPACE = 4  # first word of the generators' seeds: no other scenes of the project use it


def write_demo(folder: Path, seed: int = 0) -> dict[str, int]:
    """Write the embedded data set; the same seed gives the same bytes. See `write_scenes`."""
    return write_scenes(folder, DEMO_SUBSETS, DEMO_FAMILIES, (DEMO_SEED_SPACE, seed))


def draw_demo_scene(rng: np.random.Generator, families: dict[str, Family]) -> Scene:
    """A scene in the embedded data set's style."""
    return draw_scene(rng, families, SceneStyle())


def write_scenes(
    folder: Path,
    subsets: tuple[Subset, ...],
    families: dict[str, Family],
    seed: tuple[int, ...],
    *,
    class_agnostic: bool = False,
    draw: DrawScene = draw_demo_scene,
) -> dict[str, int]:
    """Write `folder/<subset>/*.png` and `folder/<subset>.json`; of scenes with depth also `folder/depth`.

    Args:
        families: what the scenes show; a category each, or one category `object` if `class_agnostic`.
        draw: makes a scene of the families; with `class_agnostic` of whatever else it likes, too.
        seed: scene `i` of a subset is drawn from the numbers of the seed, the subset's stream and `i`.

    Returns:
        The number of annotated objects in each subset.

    Raises:
        OSError: if the folder cannot be written.
    """
    names = ["object"] if class_agnostic else list(families)
    counts = {}
    for subset in subsets:
        images_folder = folder / subset.name
        images_folder.mkdir(parents=True, exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(subset.size):
            rng = np.random.default_rng([*seed, subset.stream, index])
            scene = draw(rng, families)
            name = f"{subset.name}_{index:05d}.png"
            write_bytes(images_folder / name, png_bytes(scene.image))
            if scene.depth is not None:
                depth_folder = folder / "depth" / subset.name
                depth_folder.mkdir(parents=True, exist_ok=True)
                write_bytes(depth_folder / name, gray_png_bytes(scene.depth))
            height, width = scene.image.shape[:2]
            images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
            for item in scene.objects:
                label = 0 if class_agnostic else names.index(item.family)
                annotations.append(mask_annotation(item.mask, index + 1, len(annotations) + 1, label + 1))
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_text(folder / f"{subset.name}.json", json.dumps(content))
        counts[subset.name] = len(annotations)
    return counts
