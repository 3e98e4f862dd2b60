"""Drawn crowds: classes that are easy to tell, masks that are hard to draw, as in the paper's experiments.

An object is a chain or a ring of pieces of light and dark tone: contrast within it is stronger than between
it and its neighbor of the same class, so that a teacher of few images merges neighbors and cuts objects in
two. What belongs together follows from the object's make, which has to be seen in many poses, sizes, lights
and patterns. The color shows the class, except for rare pale ones, whose shape shows it.
"""

import colorsys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from s4m_pipeline.data.scenes.looks import draw_ground
from s4m_pipeline.data.scenes.render import MIN_VISIBLE_SHARE, Scene, SceneObject, coverage
from s4m_pipeline.data.scenes.shapes import Family, Part, ellipse
from s4m_pipeline.data.scenes.writer import Subset, write_scenes

CROWD_SUBSETS = (
    Subset("train", 0, 4),
    Subset("val", 1, 40),
    Subset("unlabeled", 2, 400),
    Subset("test", 3, 100),
)
SEED_SPACE = 13  # first word of the generators' seeds: no other scenes of the project use it
SIDE_PX = 128
CROWDS, MEMBERS = (1, 2), (2, 4)
"""Fewest and most crowds of a scene, and members of a crowd."""
RADIUS_PX = (15.0, 26.0)
"""Half extent of an object; those of a crowd are alike."""
RARE = 0.03
"""Probability of a crowd without the color of its class."""
_MIN_AREA_PX = 60
_HUES = {"caterpillar": 0.02, "starfish": 0.6, "beetle": 0.33}  # red, blue, green
_TONES = (0.95, 0.5, 0.8, 0.3)  # of a piece by its role: brightness of its color


def write_crowds(folder: Path, seed: int = 0) -> dict[str, int]:
    """Write the scenes and their COCO JSON; the same seed gives the same bytes. See `write_scenes`."""
    return write_scenes(folder, CROWD_SUBSETS, CROWD_FAMILIES, (SEED_SPACE, seed), draw=draw_crowds)


def draw_crowds(rng: np.random.Generator, families: dict[str, Family]) -> Scene:
    """A few crowds on 128 x 128 px, behind up to three blades of grass."""
    canvas = draw_ground(rng, SIDE_PX, gray=False)
    # 0 is ground, k the k-th that was painted: objects, then blades
    owner = np.zeros((SIDE_PX, SIDE_PX), np.int32)
    names: list[str] = []
    areas: list[int] = []
    for _ in range(rng.integers(CROWDS[0], CROWDS[1] + 1)):
        name = str(rng.choice(list(families)))
        color = _crowd_color(rng, _HUES[name])
        for center, radius in _places(rng):
            names.append(name)
            areas.append(_paint(rng, canvas, owner, families[name](rng), center, radius, color, len(names)))
    for number in range(1, 1 + rng.integers(0, 2)):
        _paint_blade(rng, canvas, owner, len(names) + number)
    objects = []
    for number, (name, area) in enumerate(zip(names, areas, strict=True), start=1):
        mask = owner == number
        if mask.sum() >= max(_MIN_AREA_PX, MIN_VISIBLE_SHARE * area):
            objects.append(SceneObject(name, mask, [mask]))
    depth = (owner * (65535 // max(owner.max(), 1))).astype(np.uint16)
    return Scene(_photograph(rng, canvas), objects, depth)


def caterpillar(rng: np.random.Generator) -> list[Part]:
    """A head with an eye, and two to four segments of alternate tone on a bent line."""
    count, bend = int(rng.integers(3, 6)), rng.normal(0, 0.3)
    heading = np.cumsum(bend + rng.normal(0, 0.15, count))
    line = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)
    line = line - (line.min(0) + line.max(0)) / 2
    size = rng.uniform(0.7, 0.95)  # of a segment, in steps of the line
    scale = 1 / (np.abs(line).max() + size)
    line, radius = scale * line, scale * size
    segments = [Part(ellipse(x, y, radius, radius), 1 + k % 2) for k, (x, y) in enumerate(line[1:])]
    (head_x, head_y), (eye_x, eye_y) = line[0], line[0] - 0.25 * (line[1] - line[0])
    head = Part(ellipse(head_x, head_y, 1.15 * radius, 1.15 * radius), 0)
    return [*reversed(segments), head, Part(ellipse(eye_x, eye_y, 0.3 * scale, 0.3 * scale, 12), 3)]


def starfish(rng: np.random.Generator) -> list[Part]:
    """Five or six bent arms of alternate tone around a disk."""
    count, width = int(rng.integers(4, 7)), rng.uniform(0.26, 0.36)
    parts = []
    for k, angle in enumerate(np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(0, 0.12, count)):
        length, turn = rng.uniform(0.75, 1.0), rng.normal(0, 0.35)
        along = np.linspace(0, 1, 6)
        bent = angle + turn * along
        spine = length * along[:, None] * np.stack([np.cos(bent), np.sin(bent)], axis=1)
        across = width * (1 - 0.45 * along)[:, None] * np.stack([-np.sin(bent), np.cos(bent)], axis=1)
        parts.append(Part(np.concatenate([spine + across, (spine - across)[::-1]]), 1 + k % 2))
    return [*parts, Part(ellipse(0, 0, 1.5 * width, 1.5 * width), 0)]


def beetle(rng: np.random.Generator) -> list[Part]:
    """Two wings of different tone, a head, and spots on some."""
    width, split = rng.uniform(0.5, 0.75), rng.uniform(0.0, 0.3)
    body = ellipse(0.1, 0, 0.85, width)
    upper, lower = (np.stack([body[:, 0], clip], axis=1) for clip in _halves(body[:, 1], split))
    marks = [
        Part(ellipse(x, y * width, 0.13, 0.13, 14), 3)
        for x in rng.uniform(-0.4, 0.6, int(rng.integers(0, 3)))
        for y in (-0.5, 0.5)
    ]
    return [Part(ellipse(-0.78, 0, 0.25, 0.3), 0), Part(upper, 1), Part(lower, 2), *marks]


CROWD_FAMILIES: dict[str, Family] = {"caterpillar": caterpillar, "starfish": starfish, "beetle": beetle}


def _halves(y: NDArray[np.float64], split: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    seam = split * np.abs(y).max()
    return np.minimum(y, seam), np.maximum(y, seam)


def _places(rng: np.random.Generator) -> list[tuple[NDArray[np.float64], float]]:
    """Center and half extent of each member of a crowd; each touches or overlaps an earlier one."""
    typical = np.exp(rng.uniform(*np.log(RADIUS_PX)))
    places = [(rng.uniform(0.15 * SIDE_PX, 0.85 * SIDE_PX, 2), typical)]
    for _ in range(4 * int(rng.integers(MEMBERS[0], MEMBERS[1] + 1)) - 4):
        beside, reach = places[rng.integers(len(places))]
        radius, angle = typical * rng.uniform(0.8, 1.25), rng.uniform(0, 2 * np.pi)
        distance = (reach + radius) * rng.uniform(0.65, 0.9)
        center = beside + distance * np.array([np.cos(angle), np.sin(angle)])
        apart = min(np.hypot(*(center - other)) / (size + radius) for other, size in places)
        if np.all(center > 6) and np.all(center < SIDE_PX - 6) and apart > 0.6:
            places.append((center, radius))
        if len(places) == MEMBERS[1]:
            break
    return places


def _crowd_color(rng: np.random.Generator, hue: float) -> NDArray[np.float32]:
    """RGB in [0, 1] that all members of a crowd share."""
    saturation = rng.uniform(0.02, 0.15) if rng.random() < RARE else rng.uniform(0.65, 1.0)
    rgb = colorsys.hsv_to_rgb((hue + rng.normal(0, 0.015)) % 1, saturation, rng.uniform(0.6, 1.0))
    return np.array(rgb, np.float32)


def _paint(
    rng: np.random.Generator,
    canvas: NDArray[np.float32],
    owner: NDArray[np.int32],
    parts: list[Part],
    center: NDArray[np.float64],
    radius: float,
    color: NDArray[np.float32],
    number: int,
) -> int:
    """Paint an object in a random pose; returns how many pixels it covers."""
    angle, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.2, 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    tones = np.array(_TONES) * rng.uniform(0.85, 1.15, len(_TONES))
    covered = np.zeros(owner.shape, bool)
    for part in parts:
        alpha = coverage((SIDE_PX, SIDE_PX), (part.outline * stretch) @ turn * radius + center)
        canvas += alpha[..., None] * (color * tones[part.role] - canvas)
        covered |= alpha >= 0.5
    owner[covered] = number
    return int(covered.sum())


def _paint_blade(
    rng: np.random.Generator, canvas: NDArray[np.float32], owner: NDArray[np.int32], number: int
) -> None:
    """A thin bent strip in the foreground, in the ground's tone, from one side of the image to another."""
    ends, bow, width = rng.uniform(0, SIDE_PX, (2, 2)), rng.normal(0, 12, 2), rng.uniform(1.0, 2.5)
    ends[:, int(rng.integers(2))] = (-4, SIDE_PX + 4)
    along = np.linspace(0, 1, 16)[:, None]
    line = ends[0] + along * (ends[1] - ends[0]) + 4 * along * (1 - along) * bow
    across = width * np.array([[-1, 1]]) * (ends[1] - ends[0])[::-1] / np.hypot(*(ends[1] - ends[0]))
    alpha = coverage((SIDE_PX, SIDE_PX), np.concatenate([line + across, (line - across)[::-1]]))
    canvas += alpha[..., None] * (rng.uniform(0.15, 0.85) * np.float32(1) - canvas)
    owner[alpha >= 0.5] = number


def _photograph(rng: np.random.Generator, canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Uneven light of some tint, blur and noise."""
    light = cv2.resize(rng.standard_normal((3, 3), dtype=np.float32), (SIDE_PX, SIDE_PX), interpolation=2)
    exposure = np.exp(rng.uniform(-0.7, 0.2) + 0.2 * light)[..., None] * (1 + rng.normal(0, 0.03, 3))
    image = cv2.GaussianBlur(canvas * exposure.astype(np.float32), (0, 0), rng.uniform(0.4, 1.1))
    image = image + rng.normal(0, rng.uniform(0.01, 0.05), image.shape)
    return np.clip(np.round(255 * image), 0, 255).astype(np.uint8)
