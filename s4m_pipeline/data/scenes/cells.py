"""Drawn micrographs: dim gray cells that touch, an example where the teacher's labels merge neighbors.

The generator shares nothing with that of the scenes which the shipped models were trained on.
"""

from pathlib import Path

import cv2
import numpy as np

from s4m_pipeline.data.scenes.render import Scene, SceneObject
from s4m_pipeline.data.scenes.shapes import Family
from s4m_pipeline.data.scenes.writer import Subset, write_scenes

CELL_SUBSETS = (
    Subset("train", 0, 7),
    Subset("val", 1, 12),
    Subset("unlabeled", 2, 60),
    Subset("test", 3, 40),
)
SEED_SPACE = 12  # first word of the generators' seeds: no other scenes of the project use it
SIDE_PX = 128
_GROUND, _LEVELS, _NOISE = 18.0, (28.0, 75.0), 5.0  # in 8-bit steps
_SMALLEST_PX = 60


def write_cells(folder: Path, seed: int = 0) -> dict[str, int]:
    """Write the tiles and their COCO JSON; the same seed gives the same bytes. See `write_scenes`."""
    return write_scenes(folder, CELL_SUBSETS, {"cell": lambda _: []}, (SEED_SPACE, seed), draw=draw_cells)


def draw_cells(rng: np.random.Generator, _: dict[str, Family] | None = None) -> Scene:
    """Between 8 and 20 cells of 18 to 30 px that touch and dent one another, on 128 x 128 px."""
    ys, xs = np.mgrid[:SIDE_PX, :SIDE_PX] + 0.5
    count, centers, scores = int(rng.integers(8, 21)), [rng.uniform(30, SIDE_PX - 30, 2)], []
    while len(centers) < count:
        beside, angle = centers[rng.integers(len(centers))], rng.uniform(0, 2 * np.pi)
        center = beside + rng.uniform(17, 24) * np.array([np.cos(angle), np.sin(angle)])
        if (
            np.all(center > 8)
            and np.all(center < SIDE_PX - 8)
            and min(np.hypot(*(np.array(centers) - center).T)) > 15
        ):
            centers.append(center)
        elif rng.random() < 0.02:
            break
    for x, y in centers:
        distance, angle = np.hypot(xs - x, ys - y), np.arctan2(ys - y, xs - x)
        radius = rng.uniform(9, 15) * (
            1 + sum(rng.normal(0, 0.05) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3))
        )
        scores.append(1 - distance / radius)
    depth = np.stack(scores)  # (N, H, W): 1 at the center, 0 at the outline
    owner, inside = depth.argmax(0), depth.max(0) > 0
    masks = np.stack([(owner == k) & inside for k in range(len(centers))])
    levels = rng.uniform(*_LEVELS, len(centers))
    light = np.where(inside, (levels[:, None, None] * masks).sum(0) * (0.75 + 0.35 * depth.max(0)), _GROUND)
    image = cv2.GaussianBlur(light, (0, 0), 0.9) + rng.normal(0, _NOISE, light.shape)
    gray = np.clip(np.round(image), 0, 255).astype(np.uint8)
    objects = [SceneObject("cell", mask, [mask]) for mask in masks if mask.sum() >= _SMALLEST_PX]
    return Scene(np.repeat(gray[..., None], 3, axis=2), objects)
