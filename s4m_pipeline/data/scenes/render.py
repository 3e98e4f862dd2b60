"""Draw one scene: textured background, shaded objects back to front with contact shadows, sensor noise."""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from s4m_pipeline.data.scenes.shapes import Family, Part

SUPERSAMPLE_BITS = 4  # cv2 draws polygons at 1/16 pixel
MIN_VISIBLE_SHARE = 0.35
MIN_AREA_PX = 50
ROLE_HSV = ((0.0, 0.6, 0.75), (0.33, 0.5, 0.6), (0.6, 0.35, 0.35), (0.15, 0.25, 0.95))
"""Of each part role: hue relative to the object's, saturation, value."""


@dataclass(frozen=True, kw_only=True)
class SceneStyle:
    """What a scene shows; the defaults are the embedded data set's."""

    size_px: int = 128
    """Height and width of the image."""
    num_objects: tuple[int, int] = (3, 6)
    """Fewest and most objects drawn."""
    radius_px: tuple[float, float] = (15.0, 28.0)
    """Half extent of an object."""
    neighbor_probability: float = 0.45
    """Chance that an object stands beside the last one, touching or overlapping it, in the same family."""
    noise: float = 7.0
    """Standard deviation of the pixel noise, in 8-bit steps."""


@dataclass(frozen=True)
class SceneObject:
    """One visible object."""

    family: str
    mask: NDArray[np.bool_]
    """(H, W) visible pixels."""
    part_masks: list[NDArray[np.bool_]]
    """(H, W) visible pixels of each part that shows at all."""


@dataclass(frozen=True)
class Scene:
    """An image (H, W, 3) uint8 RGB and its objects, back to front."""

    image: NDArray[np.uint8]
    objects: list[SceneObject]
    depth: NDArray[np.uint16] | None = None
    """(H, W) in which order the scene was painted, the nearest largest; None: not kept."""


@dataclass(frozen=True)
class _Placement:
    family: str
    center: NDArray[np.float64]
    radius: float
    hue: float


def draw_scene(rng: np.random.Generator, families: dict[str, Family], style: SceneStyle) -> Scene:
    """Draw one scene; the same generator state gives the same bytes."""
    size = style.size_px
    canvas = _background(rng, size)
    owner = np.zeros((size, size), np.int32)  # 0 is background, k + 1 the k-th drawn part
    parts_of: list[list[int]] = []
    drawn_area: list[int] = []
    placements = _place(rng, families, style)
    next_part = 1
    for placement in placements:
        outlines = _to_pixels(rng, families[placement.family](rng), placement)
        silhouette = np.zeros((size, size), np.uint8)
        for outline, _ in outlines:
            fill_polygon(silhouette, outline)
        _contact_shadow(canvas, silhouette)
        parts = []
        for outline, role in outlines:
            covered = _paint(rng, canvas, outline, _color(rng, placement.hue, role), placement)
            owner[covered] = next_part
            parts.append(next_part)
            next_part += 1
        parts_of.append(parts)
        drawn_area.append(int((silhouette >= 128).sum()))
    objects = _visible_objects(owner, placements, parts_of, drawn_area)
    return Scene(_sensor(rng, canvas, style.noise), objects)


def _place(rng: np.random.Generator, families: dict[str, Family], style: SceneStyle) -> list[_Placement]:
    names, size = list(families), style.size_px
    placements: list[_Placement] = []
    for _ in range(rng.integers(style.num_objects[0], style.num_objects[1] + 1)):
        last = placements[-1] if placements else None
        if last is not None and rng.random() < style.neighbor_probability:
            radius = last.radius * rng.uniform(0.8, 1.2)
            angle = rng.uniform(-0.6, 0.6) + np.pi * rng.integers(0, 2)
            distance = (last.radius + radius) * rng.uniform(0.6, 0.9)
            center = last.center + distance * np.array([np.cos(angle), np.sin(angle)])
            hue = last.hue + rng.normal(0, 0.05)
            inside = np.all(center > radius * 0.5) and np.all(center < size - radius * 0.5)
            if inside and _min_separation(center, radius, placements) > 0.55:
                placements.append(_Placement(last.family, center, radius, hue))
            continue
        radius = np.exp(rng.uniform(*np.log(style.radius_px)))
        for _ in range(12):  # prefer free ground, so that most overlaps are the neighbors' above
            center = rng.uniform(radius * 0.8, size - radius * 0.8, 2)
            if _min_separation(center, radius, placements) > 0.8:
                name = names[rng.integers(len(names))]
                placements.append(_Placement(name, center, radius, rng.random()))
                break
    return placements


def _min_separation(center: NDArray[np.float64], radius: float, placements: list[_Placement]) -> float:
    """Smallest distance to a placed object, as a share of the sum of both radii."""
    shares = [np.hypot(*(center - p.center)) / (radius + p.radius) for p in placements]
    return float(min(shares, default=np.inf))


def _to_pixels(
    rng: np.random.Generator, parts: list[Part], placement: _Placement
) -> list[tuple[NDArray[np.float64], int]]:
    angle = rng.normal(0, 0.18)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    stretch = np.array([rng.uniform(0.85, 1.1) * rng.choice([-1, 1]), rng.uniform(0.85, 1.1)])
    return [
        ((part.outline * stretch) @ rotation * placement.radius + placement.center, part.role)
        for part in parts
    ]


def fill_polygon(target: NDArray[np.uint8], outline: NDArray[np.float64]) -> None:
    """Draw a polygon (N, 2) of x, y in pixels with smooth edges: pixels inside become 255."""
    # cv2 takes pixel centers as integers; our frame has them at half pixels.
    points = np.round((outline - 0.5) * 2**SUPERSAMPLE_BITS).astype(np.int32)
    cv2.fillPoly(target, [points], 255, lineType=cv2.LINE_AA, shift=SUPERSAMPLE_BITS)


def coverage(shape: tuple[int, ...], outline: NDArray[np.float64]) -> NDArray[np.float32]:
    """Fraction of each pixel inside the outline, (H, W) float32 in [0, 1]."""
    alpha = np.zeros(shape, np.uint8)
    fill_polygon(alpha, outline)
    return np.asarray(alpha / np.float32(255), np.float32)


def _color(rng: np.random.Generator, hue: float, role: int) -> NDArray[np.float64]:
    role_hue, role_saturation, role_value = ROLE_HSV[role % len(ROLE_HSV)]
    saturation = np.clip(role_saturation + rng.normal(0, 0.08), 0.05, 1)
    value = np.clip(role_value + rng.normal(0, 0.08), 0.15, 1)
    rgb = colorsys.hsv_to_rgb((hue + role_hue + rng.normal(0, 0.04)) % 1.0, saturation, value)
    return 255 * np.array(rgb)


def _paint(
    rng: np.random.Generator,
    canvas: NDArray[np.float32],
    outline: NDArray[np.float64],
    color: NDArray[np.float64],
    placement: _Placement,
) -> NDArray[np.bool_]:
    """Blend one shaded part into the canvas; return the pixels it covers by half or more."""
    size = canvas.shape[0]
    alpha = np.zeros((size, size), np.uint8)
    fill_polygon(alpha, outline)
    y0, y1, x0, x1 = _bounds(outline, size)
    ys, xs = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    cx, cy = placement.center
    # Light from the upper left, the same for all parts of an object: seams between objects break it.
    shade = 1.0 - 0.22 * ((xs - cx) * 0.5 + (ys - cy) * 0.8) / placement.radius
    grain = _low_frequency(rng, size, 16)[y0:y1, x0:x1] * 0.07
    share = alpha[y0:y1, x0:x1, None].astype(np.float32) / 255
    paint = color.astype(np.float32) * (shade + grain)[..., None]
    canvas[y0:y1, x0:x1] += share * (paint - canvas[y0:y1, x0:x1])
    return alpha >= 128


def _bounds(outline: NDArray[np.float64], size: int) -> tuple[int, int, int, int]:
    low = np.clip(np.floor(outline.min(0)).astype(int) - 1, 0, size)
    high = np.clip(np.ceil(outline.max(0)).astype(int) + 2, 0, size)
    return int(low[1]), int(high[1]), int(low[0]), int(high[0])


def _contact_shadow(canvas: NDArray[np.float32], silhouette: NDArray[np.uint8]) -> None:
    shadow = cv2.GaussianBlur(silhouette, (0, 0), 2.0).astype(np.float32) / 255
    canvas *= (1 - 0.45 * shadow)[..., None]


def _low_frequency(rng: np.random.Generator, size: int, cells: int) -> NDArray[np.float32]:
    """Smooth noise of unit scale, (size, size)."""
    grid = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _background(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    hue, saturation, value = rng.random(), rng.uniform(0.1, 0.45), rng.uniform(0.35, 0.85)
    base = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)
    texture = 0.10 * _low_frequency(rng, size, 4) + 0.07 * _low_frequency(rng, size, 24)
    canvas: NDArray[np.float32] = base * (1 + texture[..., None])
    tint = rng.normal(0, 10, 3).astype(np.float32)
    canvas += tint * _low_frequency(rng, size, 5)[..., None]
    for _ in range(rng.integers(2, 6)):  # stray lines as distractors
        ends = rng.integers(0, size, 4)
        shade = tuple(float(v) for v in base * rng.uniform(0.5, 1.4))
        cv2.line(canvas, ends[:2].tolist(), ends[2:].tolist(), shade, int(rng.integers(1, 3)), cv2.LINE_AA)
    return canvas


def _visible_objects(
    owner: NDArray[np.int32], placements: list[_Placement], parts_of: list[list[int]], drawn_area: list[int]
) -> list[SceneObject]:
    objects = []
    for placement, parts, area in zip(placements, parts_of, drawn_area, strict=True):
        mask = (owner >= parts[0]) & (owner <= parts[-1])
        if mask.sum() < max(MIN_AREA_PX, MIN_VISIBLE_SHARE * area):
            continue
        part_masks = [owner == part for part in parts]
        objects.append(SceneObject(placement.family, mask, [m for m in part_masks if m.any()]))
    return objects


def _sensor(rng: np.random.Generator, canvas: NDArray[np.float32], noise: float) -> NDArray[np.uint8]:
    light = 1 + 0.06 * _low_frequency(rng, canvas.shape[0], 3)
    image = np.asarray(cv2.GaussianBlur(canvas * light[..., None], (0, 0), 0.6))
    image = image + rng.normal(0, noise, image.shape).astype(np.float32)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
