"""Families of multi-part objects as polygons in a unit frame: x right, y down, extent about [-1, 1]."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]  # (V, 2) vertices x, y


@dataclass(frozen=True)
class Part:
    """One part of an object: its outline and the color role that distinguishes it from its siblings."""

    outline: Polygon
    role: int


Family = Callable[[np.random.Generator], list[Part]]


def ellipse(x: float, y: float, rx: float, ry: float, vertices: int = 28) -> Polygon:
    """Outline of an axis-aligned ellipse, (V, 2)."""
    angle = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    """Outline of an axis-aligned rectangle, (4, 2)."""
    return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def polygon(*vertices: tuple[float, float]) -> Polygon:
    """Outline through the given vertices, (V, 2)."""
    return np.array(vertices, dtype=np.float64)


def cart(rng: np.random.Generator) -> list[Part]:
    """A body with a cabin on top and two wheels below."""
    roof, wheel = rng.uniform(-0.65, -0.4), rng.uniform(0.24, 0.34)
    left = rng.uniform(-0.6, -0.1)
    return [
        Part(box(left, roof, left + rng.uniform(0.65, 0.9), 0.0), 1),
        Part(box(-1.0, -0.12, 1.0, 0.42), 0),
        Part(ellipse(-0.55, 0.45, wheel, wheel), 2),
        Part(ellipse(0.55, 0.45, wheel, wheel), 2),
    ]


def figure(rng: np.random.Generator) -> list[Part]:
    """A person: head, torso with arms, two legs."""
    width, head = rng.uniform(0.3, 0.42), rng.uniform(0.2, 0.28)
    arm = rng.uniform(0.05, 0.45)
    return [
        Part(box(-width * 0.85, 0.2, -0.04, 1.0), 2),
        Part(box(0.04, 0.2, width * 0.85, 1.0), 2),
        Part(
            polygon(
                (-width, -0.52), (width, -0.52), (width + 0.22, arm), (width, arm + 0.05),
                (width * 0.9, 0.3), (-width * 0.9, 0.3), (-width, arm + 0.05), (-width - 0.22, arm),
            ),
            0,
        ),
        Part(ellipse(0.0, -0.52 - head * 0.8, head, head), 1),
    ]  # fmt: skip


def target(rng: np.random.Generator) -> list[Part]:
    """Concentric rings."""
    middle, core = rng.uniform(0.55, 0.7), rng.uniform(0.22, 0.35)
    squash = rng.uniform(0.8, 1.0)
    return [
        Part(ellipse(0, 0, 0.95, 0.95 * squash), 0),
        Part(ellipse(0, 0, middle, middle * squash), 1),
        Part(ellipse(0, 0, core, core * squash), 2),
    ]


def house(rng: np.random.Generator) -> list[Part]:
    """Walls, a roof, a door and a window."""
    eaves, ridge = rng.uniform(-0.3, 0.0), rng.uniform(-1.0, -0.8)
    door = rng.uniform(-0.5, 0.0)
    return [
        Part(box(-0.75, eaves, 0.75, 0.9), 0),
        Part(polygon((-0.95, eaves + 0.05), (rng.uniform(-0.25, 0.25), ridge), (0.95, eaves + 0.05)), 1),
        Part(box(door, 0.3, door + 0.35, 0.9), 2),
        Part(box(0.25, eaves + 0.25, 0.6, eaves + 0.6), 3),
    ]


def tree(rng: np.random.Generator) -> list[Part]:
    """A trunk under two or three overlapping crowns."""
    crowns = [
        Part(ellipse(rng.uniform(-0.25, 0.25), y, rng.uniform(0.45, 0.75), 0.42), 1 + k % 2)
        for k, y in enumerate(np.linspace(-0.05, -0.6, rng.integers(2, 4)))
    ]
    return [Part(box(-0.14, 0.1, 0.14, 1.0), 0), *crowns]


def fish(rng: np.random.Generator) -> list[Part]:
    """A body with a tail, a fin and an eye."""
    height = rng.uniform(0.35, 0.55)
    return [
        Part(polygon((0.5, 0.0), (1.0, -0.45), (0.9, 0.0), (1.0, 0.45)), 1),
        Part(polygon((-0.2, -height * 0.8), (0.2, -height - 0.3), (0.3, -height * 0.6)), 1),
        Part(ellipse(-0.15, 0.0, 0.8, height), 0),
        Part(ellipse(-0.6, -height * 0.2, 0.12, 0.12), 2),
    ]


def bottle(rng: np.random.Generator) -> list[Part]:
    """A body with a neck, a cap and a label."""
    shoulder, half = rng.uniform(-0.4, -0.15), rng.uniform(0.32, 0.48)
    return [
        Part(box(-0.16, -0.8, 0.16, shoulder + 0.15), 0),
        Part(box(-0.2, -1.0, 0.2, -0.78), 2),
        Part(polygon((-0.16, shoulder - 0.12), (0.16, shoulder - 0.12), (half, shoulder + 0.15), (half, 1.0),
                     (-half, 1.0), (-half, shoulder + 0.15)), 0),
        Part(box(-half, 0.2, half, rng.uniform(0.5, 0.75)), 1),
    ]  # fmt: skip


def flower(rng: np.random.Generator) -> list[Part]:
    """Petals around a center."""
    count = int(rng.integers(5, 8))
    petals = []
    for angle in np.linspace(0, 2 * np.pi, count, endpoint=False):
        x, y = 0.58 * np.cos(angle), 0.58 * np.sin(angle)
        petals.append(Part(ellipse(x, y, 0.36, 0.36, 18), 0))
    return [*petals, Part(ellipse(0, 0, 0.36, 0.36), 1)]


def mushroom(rng: np.random.Generator) -> list[Part]:
    """A stem under a spotted cap."""
    dome = ellipse(0, 0.0, 0.95, rng.uniform(0.7, 0.95))
    spots = [Part(ellipse(x, rng.uniform(-0.45, -0.2), 0.14, 0.12), 2) for x in (-0.45, 0.05, 0.5)]
    return [Part(box(-0.28, -0.1, 0.28, 0.95), 0), Part(np.minimum(dome, [9.0, 0.12]), 1), *spots]


def boat(rng: np.random.Generator) -> list[Part]:
    """A hull with a mast and two sails."""
    mast = rng.uniform(-0.15, 0.15)
    return [
        Part(box(mast - 0.05, -0.95, mast + 0.05, 0.4), 2),
        Part(polygon((mast + 0.05, -0.9), (0.8, 0.25), (mast + 0.05, 0.25)), 1),
        Part(polygon((mast - 0.05, -0.75), (-0.65, 0.25), (mast - 0.05, 0.25)), 3),
        Part(polygon((-0.95, 0.35), (0.95, 0.35), (0.6, 0.8), (-0.65, 0.8)), 0),
    ]


def blob(rng: np.random.Generator) -> list[Part]:
    """A smooth random outline with up to two inner patches."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = 0.8 + sum(rng.normal(0, 0.22 / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 5))
    outline = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    patches = [
        Part(outline * rng.uniform(0.25, 0.45) + rng.uniform(-0.3, 0.3, 2), 1 + k)
        for k in range(rng.integers(0, 3))
    ]
    return [Part(outline, 0), *patches]


def stack(rng: np.random.Generator) -> list[Part]:
    """Two to four random convex pieces that overlap in a row."""
    count = int(rng.integers(2, 5))
    pieces = []
    for k, x in enumerate(np.linspace(-0.65, 0.65, count)):
        angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 8)))
        angle = angle * 0.3 + np.linspace(0, 2 * np.pi, len(angle), endpoint=False) * 0.7
        size = rng.uniform(0.4, 0.7)
        center = np.array([x, rng.uniform(-0.2, 0.2)])
        pieces.append(Part(center + size * np.stack([np.cos(angle), np.sin(angle)], axis=1), k))
    return pieces


DEMO_FAMILIES: dict[str, Family] = {"cart": cart, "figure": figure, "target": target, "house": house}
OTHER_FAMILIES: dict[str, Family] = {
    "tree": tree, "fish": fish, "bottle": bottle, "flower": flower,
    "mushroom": mushroom, "boat": boat, "blob": blob, "stack": stack,
}  # fmt: skip
