"""Scenes for training small models that must cope with any picture (domain randomization).

A scene has 1 to 60 objects from 6 pixels to two thirds of the image: the named families of `shapes`, and
blobs, rods, rings, letters, fibers or packed grains of one look, on plain ground, noise or a photograph.
Objects may be brighter or darker than the ground, only outlined, or told apart by texture alone. Exposure,
blur, noise and compression follow (`photometric`). Only objects that show enough are listed.
"""

import numpy as np

from s4m_pipeline.data.scenes.layouts import Place, pack, scatter
from s4m_pipeline.data.scenes.looks import draw_ground, draw_look
from s4m_pipeline.data.scenes.painter import Drawn, paint_object, visible_object
from s4m_pipeline.data.scenes.photometric import photograph, to_gray
from s4m_pipeline.data.scenes.render import Scene, SceneStyle, draw_scene
from s4m_pipeline.data.scenes.shapes import Family, Part
from s4m_pipeline.data.scenes.silhouettes import SILHOUETTES

SIZES_PX = (96, 128, 160, 192, 256)
DRAWING_SHARE = 0.45
"""Of the scenes: the embedded data set's kind of drawing, a third of them as they are."""


def draw_randomized_scene(rng: np.random.Generator, families: dict[str, Family]) -> Scene:
    """Draw one scene; the same generator state gives the same bytes.

    Args:
        rng: all randomness comes from it.
        families: the named, multi-part families that may occur beside the nameless silhouettes.

    Returns:
        A square image of one of `SIZES_PX`, and its objects back to front; there may be none.
    """
    if rng.random() < DRAWING_SHARE:
        return _draw_drawing(rng, families)
    return _draw_specimen(rng, families)


def _draw_drawing(rng: np.random.Generator, families: dict[str, Family]) -> Scene:
    """The embedded data set's kind of scene, photographed or as it is."""
    photographed, style = rng.random() < 0.67, SceneStyle()
    if rng.random() < 0.5:
        smallest = rng.uniform(9, 16)
        style = SceneStyle(
            num_objects=(2, 8),
            radius_px=(smallest, smallest * rng.uniform(1.5, 2.5)),
            neighbor_probability=rng.uniform(0.2, 0.7),
            noise=rng.uniform(0, 4) if photographed else rng.uniform(2, 12),
        )
    scene = draw_scene(rng, families, style)
    if not photographed:
        return scene
    clean = np.asarray(np.asarray(scene.image, np.float32) / 255, np.float32)
    if rng.random() < 0.65:
        clean = to_gray(rng, clean)
    return Scene(photograph(rng, clean, max_blur_px=2.0), scene.objects)


def _draw_specimen(rng: np.random.Generator, families: dict[str, Family]) -> Scene:
    """Many objects of one look, as under a microscope, on a belt or from the air."""
    size = int(SIZES_PX[rng.integers(len(SIZES_PX))])
    gray = rng.random() < 0.6
    canvas = draw_ground(rng, size, gray)
    look = draw_look(rng, canvas, gray)
    placed = _choose_objects(rng, size, families)
    owner = np.zeros((size, size), np.int32)  # 0 is ground, k + 1 the k-th painted part
    drawn: list[Drawn] = []
    next_part = 1
    for name, parts, place in placed:
        item = paint_object(rng, canvas, owner, look, name, parts, place, next_part)
        next_part += len(parts)
        drawn.append(item)
    objects = [item for item in (visible_object(owner, one) for one in drawn) if item is not None]
    smallest = min((place.radius for _, _, place in placed), default=size / 8)
    image = photograph(rng, canvas, max_blur_px=min(0.25 * smallest, 2.5 * size / 128))
    return Scene(image, objects)


def _choose_objects(
    rng: np.random.Generator, size: int, families: dict[str, Family]
) -> list[tuple[str, list[Part], Place]]:
    """Name, parts in the unit frame and place of each object, back to front."""
    if rng.random() < 0.15:
        return [("grain", [Part(outline, 0)], place) for place, outline in pack(rng, size)]
    everything = {**families, **SILHOUETTES}
    pool = list(everything) if rng.random() < 0.3 else list(SILHOUETTES)
    crowded = False
    if rng.random() < 0.6:  # cells above all: the commonest picture that has many alike
        pool, crowded = ["star_convex", "cell", "disk"], rng.random() < 0.6
    names = [pool[rng.integers(len(pool))] for _ in range(rng.integers(1, 4))]
    objects = []
    for place in scatter(rng, size, crowded):
        name = names[rng.integers(len(names))]
        objects.append((name, everything[name](rng), place))
    return objects
