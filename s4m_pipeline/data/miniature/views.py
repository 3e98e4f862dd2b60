"""Shared by both miniatures: cropped drawn scenes, and a marker that protects folders with real data."""

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from s4m_cache.atomic import write_text
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.scenes.render import Scene, SceneObject, SceneStyle, draw_scene
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES, OTHER_FAMILIES

SEED_SPACE = 7  # first element of the generators' seeds, used for no other scenes of the project
MARKER = "miniature.json"
_FAMILIES = {**DEMO_FAMILIES, **OTHER_FAMILIES}


def draw_view(rng: np.random.Generator, families: Iterable[str], width: int, height: int) -> Scene:
    """The center of a square scene with objects of some families, cropped to `width` x `height`."""
    size = max(width, height)
    scale = size / 256
    style = SceneStyle(
        size_px=size,
        num_objects=(max(4, int(10 * scale)), max(6, int(16 * scale))),
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
    """Outer contour of every connected part of a mask, the largest first, as (V, 2) pixel indices x, y."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return sorted((np.asarray(piece[:, 0], np.int32) for piece in found), key=cv2.contourArea, reverse=True)


def claim_folder(folder: Path, name: str, subfolders: Iterable[str]) -> None:
    """Mark `folder` as a miniature, before anything else is written.

    Raises:
        UserError: one of `subfolders` exists without the marker: real data would be mixed with drawn images.
        OSError: it cannot be written.
    """
    existing = [str(folder / sub) for sub in subfolders if (folder / sub).exists()]
    if existing and not (folder / MARKER).is_file():
        raise UserError(f"{folder} holds different data ({', '.join(existing)}). Use a different folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / MARKER, json.dumps({"description": f"Drawn scenes in the layout of {name}"}) + "\n")
