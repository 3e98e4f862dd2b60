"""Where the objects of a randomized scene stand: scattered, crowded, or packed like grains."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Voronoi

from s4m_pipeline.data.scenes.shapes import Polygon

MAX_OBJECTS = 60
MIN_RADIUS_PX = 3.0
MAX_DIAMETER_SHARE = 2 / 3
"""Of the image, for the largest objects."""


@dataclass(frozen=True)
class Place:
    """One object's place: its center x, y and half extent, in pixels."""

    center: NDArray[np.float64]
    radius: float


def scatter(rng: np.random.Generator, size: int, crowded: bool = False) -> list[Place]:
    """Between 1 and 60 places; apart, or (always if `crowded`) in clusters whose members touch or overlap."""
    fewest = 5 if crowded else 1
    count = round(np.exp(rng.uniform(np.log(fewest), np.log(MAX_OBJECTS + 0.49))))
    radius = _typical_radius(rng, size, count)
    spread = rng.uniform(1.0, 1.0 + 0.8 * rng.random())
    crowding = rng.uniform(0.3, 1.0) if crowded or rng.random() < 0.5 else 0.0
    closeness = rng.uniform(0.6, 0.95)  # smallest distance of two centers, as a share of their radii
    places: list[Place] = []
    for _ in range(3 * count):
        if len(places) == count:
            break
        own = max(radius * np.exp(rng.uniform(-1, 1) * np.log(spread)), MIN_RADIUS_PX)
        own = min(own, MAX_DIAMETER_SHARE * size / 2)
        if places and rng.random() < crowding:
            beside = places[rng.integers(len(places))]
            angle = rng.uniform(0, 2 * np.pi)
            reach = (own + beside.radius) * rng.uniform(closeness, 1.02)
            center = beside.center + reach * np.array([np.cos(angle), np.sin(angle)])
            if np.any(center < 0) or np.any(center > size):
                continue
            apart = closeness * 0.95
        else:
            center, apart = rng.uniform(min(0.6 * own, size / 3), size - min(0.6 * own, size / 3), 2), 1.1
        if _min_separation(center, own, places) > apart:
            places.append(Place(center, own))
    return places


def _typical_radius(rng: np.random.Generator, size: int, count: int) -> float:
    """Half extent of most objects, so that all of them cover less than the image."""
    cover = rng.uniform(0.25, 0.8)
    largest = min(MAX_DIAMETER_SHARE * size / 2, size * np.sqrt(cover / (np.pi * count)))
    smallest = max(MIN_RADIUS_PX, largest * 0.25)
    return float(np.exp(rng.uniform(np.log(smallest), np.log(max(largest, smallest)))))


def _min_separation(center: NDArray[np.float64], radius: float, places: list[Place]) -> float:
    if not places:
        return np.inf
    distance = np.hypot(*(np.array([p.center for p in places]) - center).T)
    return float((distance / (radius + np.array([p.radius for p in places]))).min())


def pack(rng: np.random.Generator, size: int) -> list[tuple[Place, Polygon]]:
    """Voronoi cells of jittered points, some left out: (place, outline in the unit frame).

    Neighbors touch or leave a thin seam; corners are sharp as of crystals or rounded as of a tissue.
    """
    across = int(rng.integers(2, 8))
    pitch = size / across
    grid = (np.stack(np.meshgrid(np.arange(-2, across + 2), np.arange(-2, across + 2)), -1) + 0.5) * pitch
    seeds = grid.reshape(-1, 2) + rng.uniform(-0.45, 0.45, (grid.size // 2, 2)) * pitch * rng.uniform(0.3, 1)
    diagram = Voronoi(seeds)
    shrink, rounds = rng.uniform(0.84, 1.0), int(rng.integers(0, 3))
    kept = rng.uniform(0.4, 1.0)
    cells = []
    for seed, region in zip(seeds, diagram.point_region, strict=True):
        corners = diagram.regions[region]
        if not corners or -1 in corners or np.any(seed < 0) or np.any(seed >= size) or rng.random() > kept:
            continue
        outline = diagram.vertices[corners]
        center = outline.mean(0)
        outline = outline[np.argsort(np.arctan2(*(outline - center).T))]
        for _ in range(rounds):
            outline = _cut_corners(outline)
        radius = max(float(np.abs(outline - center).max()) * shrink, MIN_RADIUS_PX)
        cells.append((Place(center, radius), (outline - center) * shrink / radius))
    return cells[:MAX_OBJECTS]


def _cut_corners(outline: Polygon) -> Polygon:
    """One round of Chaikin's corner cutting."""
    following = np.roll(outline, -1, axis=0)
    cut = np.stack([0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following], axis=1)
    return cut.reshape(-1, 2)
