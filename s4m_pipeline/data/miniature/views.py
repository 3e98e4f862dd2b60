"""What both miniatures are made of: views of drawn scenes, and a folder that is surely not the real data."""

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cache.atomic import write_text
from s4m_pipeline.data.scenes.render import Scene, SceneObject, SceneStyle, draw_scene
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES, OTHER_FAMILIES
from s4m_pipeline.errors import UserError

SEED_SPACE = 7  # first word of the generators' seeds: no other scenes of the project use it
MARKER = "miniature.json"
_FAMILIES = {**DEMO_FAMILIES, **OTHER_FAMILIES}


def draw_view(rng: np.random.Generator, families: Iterable[str], width: int, height: int) -> Scene:
    """The middle of a larger scene with objects of some families; those at the edges are cut by them."""
    size = max(width, height)
    side_share = size / 256
    style = SceneStyle(
        size_px=size,
        num_objects=(max(4, int(10 * side_share)), max(6, int(16 * side_share))),
        radius_px=(12.0, 30.0),
    )
    scene = draw_scene(rng, {name: _FAMILIES[name] for name in families}, style)
    top, left = (size - height) // 2, (size - width) // 2
    view = np.s_[top : top + height, left : left + width]
    objects = [
        SceneObject(item.family, item.mask[view], [part[view] for part in item.part_masks])
        for item in scene.objects
        if item.mask[view].any()
    ]
    return Scene(np.ascontiguousarray(scene.image[view]), objects)


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Outer boundary of every piece of a mask, the largest first, as (V, 2) pixel indices x, y."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return sorted((np.asarray(piece[:, 0], np.int32) for piece in found), key=cv2.contourArea, reverse=True)


def claim_folder(folder: Path, name: str, subfolders: Iterable[str]) -> None:
    """Mark `folder` as that of a miniature, before anything else is written.

    Raises:
        UserError: it holds one of `subfolders` and is no miniature: real data would be mixed with drawn.
        OSError: it cannot be written.
    """
    taken = [str(folder / sub) for sub in subfolders if (folder / sub).exists()]
    if taken and not (folder / MARKER).is_file():
        raise UserError(f"{folder} holds other data ({', '.join(taken)}). Name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / MARKER, json.dumps({"description": f"Drawn scenes in the layout of {name}"}) + "\n")
