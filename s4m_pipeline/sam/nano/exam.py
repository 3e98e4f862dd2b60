"""The pictures that a small SAM 2 is measured on; none was trained on.

The demo's scenes as they are and changed one property at a time; the photograph of coins, in gray; dim
touching cells from a generator that shares nothing with the training's; randomized scenes of other seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from s4m_pipeline.data.coins import segment_coins
from s4m_pipeline.data.scenes.cells import draw_cells
from s4m_pipeline.data.scenes.randomized import draw_randomized_scene
from s4m_pipeline.data.scenes.render import Scene, SceneStyle, draw_scene
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES, OTHER_FAMILIES

SEED_SPACE = 9  # training draws from space 11, the embedded data set from space 4
COIN_TILE_PX = 112
COIN_STEP_PX = 56
ENLARGED_PX = 128
MIN_COIN_AREA_PX = 150  # of the enlarged tile: smaller pieces at its border are not asked for
MIN_AREA_SHARE = 1e-3  # of the image: smaller objects of randomized scenes are not asked for


@dataclass(frozen=True)
class Picture:
    """An image (H, W, 3) uint8 RGB and its N >= 1 whole objects, (N, H, W) bool."""

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]


def exam(count: int, seed: int = 0) -> dict[str, list[Picture]]:
    """All sets of pictures by name, `count` pictures in each that is drawn."""
    demo = demo_pictures(count, seed)
    cell_rngs = [np.random.default_rng([SEED_SPACE, seed, k, 2]) for k in range(count)]
    changed = {f"demo, {name}": change(demo, seed) for name, change in CHANGES.items()}
    return {
        "demo": demo,
        **changed,
        "coins": coin_pictures(),
        "dim cells": _with_objects([draw_cells(rng) for rng in cell_rngs], min_area_share=0),
        "randomized": _randomized_pictures(count, seed),
    }


def demo_pictures(count: int, seed: int) -> list[Picture]:
    """Scenes of the embedded data set's kind."""
    rngs = [np.random.default_rng([SEED_SPACE, seed, index]) for index in range(count)]
    return _with_objects([draw_scene(rng, DEMO_FAMILIES, SceneStyle()) for rng in rngs], min_area_share=0)


def coin_pictures() -> list[Picture]:
    """Enlarged gray tiles of scikit-image's photograph; its textbook watershed is the truth."""
    from skimage.data import coins

    photo: NDArray[np.uint8] = coins()
    labels, pictures = segment_coins(photo), []
    for top in range(0, photo.shape[0] - COIN_TILE_PX + 1, COIN_STEP_PX):
        for left in range(0, photo.shape[1] - COIN_TILE_PX + 1, COIN_STEP_PX):
            tile = np.s_[top : top + COIN_TILE_PX, left : left + COIN_TILE_PX]
            size = (ENLARGED_PX, ENLARGED_PX)
            gray = np.asarray(cv2.resize(photo[tile], size, interpolation=cv2.INTER_CUBIC), np.uint8)
            numbers = [number for number in np.unique(labels[tile]) if number]
            masks = [cv2.resize((labels[tile] == n).astype(np.float32), size) > 0.5 for n in numbers]
            masks = [mask for mask in masks if mask.sum() >= MIN_COIN_AREA_PX]
            if masks:
                pictures.append(Picture(_repeat_channels(gray), np.stack(masks)))
    return pictures


def _randomized_pictures(count: int, seed: int) -> list[Picture]:
    rngs = [np.random.default_rng([SEED_SPACE, seed, index, 1]) for index in range(count)]
    families = {**DEMO_FAMILIES, **OTHER_FAMILIES}
    return _with_objects([draw_randomized_scene(rng, families) for rng in rngs], MIN_AREA_SHARE)


def _with_objects(scenes: list[Scene], min_area_share: float) -> list[Picture]:
    pictures = []
    for scene in scenes:
        masks = [item.mask for item in scene.objects if item.mask.mean() >= min_area_share]
        if masks:
            pictures.append(Picture(scene.image, np.stack(masks)))
    return pictures


def _repeat_channels(gray: NDArray[Any]) -> NDArray[np.uint8]:
    return np.repeat(gray[..., None], 3, axis=2)


def _changed(change: Callable[[NDArray[np.uint8], np.random.Generator], NDArray[Any]]):
    """One change applied to all pictures, with a generator of its own for each."""

    def apply(pictures: list[Picture], seed: int) -> list[Picture]:
        rngs = [np.random.default_rng([SEED_SPACE, seed, k, 3]) for k in range(len(pictures))]
        images = [
            np.clip(np.round(change(p.image, rng)), 0, 255) for p, rng in zip(pictures, rngs, strict=True)
        ]
        return [Picture(image.astype(np.uint8), p.masks) for image, p in zip(images, pictures, strict=True)]

    return apply


CHANGES = {
    "gray": _changed(lambda image, _: _repeat_channels(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))),
    "inverted": _changed(lambda image, _: 255 - image),
    "contrast 0.2": _changed(lambda image, _: 127.5 + 0.2 * (image - 127.5)),
    "noise sd 20": _changed(lambda image, rng: image + rng.normal(0, 20, image.shape)),
    "blur 1.5 px": _changed(lambda image, _: cv2.GaussianBlur(image, (0, 0), 1.5)),
}
"""The demo's pictures with one property changed."""
