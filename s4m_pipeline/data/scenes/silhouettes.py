"""Object shapes without a class, beside the named families of `shapes`: polygons in the same unit frame."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from s4m_pipeline.data.scenes.shapes import Family, Part, Polygon, ellipse

GLYPHS = "ABCDEFGHKLMNPRSTUVXYZ2345679&?"
GLYPH_PX = 96


def star_convex(rng: np.random.Generator) -> list[Part]:
    """A smooth outline seen whole from its center: a cell, a pebble, a leaf."""
    return [Part(_wavy_outline(rng, rng.uniform(0.03, 0.3)), 0)]


def cell(rng: np.random.Generator) -> list[Part]:
    """A star-convex body with one or two kernels inside."""
    body = _wavy_outline(rng, rng.uniform(0.02, 0.15))
    kernels = []
    for _ in range(rng.integers(1, 3)):
        x, y = rng.uniform(-0.3, 0.3, 2)
        kernels.append(Part(ellipse(x, y, rng.uniform(0.15, 0.4), rng.uniform(0.15, 0.4)), 1))
    return [Part(body, 0), *kernels]


def disk(rng: np.random.Generator) -> list[Part]:
    """An ellipse, from a circle to one three times as long as wide."""
    return [Part(_turned(rng, ellipse(0, 0, 1.0, rng.uniform(0.33, 1.0), 40)), 0)]


def rod(rng: np.random.Generator) -> list[Part]:
    """A straight or bent capsule."""
    return [Part(_ribbon(rng, width=rng.uniform(0.12, 0.35), bend=rng.uniform(0, 1.2)), 0)]


def fiber(rng: np.random.Generator) -> list[Part]:
    """A long thin strand that winds."""
    return [Part(_ribbon(rng, width=rng.uniform(0.04, 0.1), bend=rng.uniform(0.5, 2.5)), 0)]


def ring(rng: np.random.Generator) -> list[Part]:
    """An annulus; what is inside its hole does not belong to it."""
    outline = _wavy_outline(rng, rng.uniform(0, 0.08))
    return [Part(with_hole(outline, outline * rng.uniform(0.4, 0.75)), 0)]


def facets(rng: np.random.Generator) -> list[Part]:
    """A polygon of three to eight corners, convex or not: a crystal, a flake."""
    corners = int(rng.integers(3, 9))
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(0, 6.3)
    angle = angle + rng.uniform(-0.7, 0.7, corners) * np.pi / corners
    radius = rng.uniform(rng.uniform(0.35, 0.9), 1.0, corners)
    return [Part(radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1), 0)]


def letter(rng: np.random.Generator) -> list[Part]:
    """A letter or digit in one of three typefaces."""
    font = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)[rng.integers(3)]
    thickness = int(rng.integers(8, 15))
    return [Part(_turned(rng, _glyph(GLYPHS[rng.integers(len(GLYPHS))], font, thickness)), 0)]


def with_hole(outline: Polygon, hole: Polygon) -> Polygon:
    """One polygon around both: a slit without width joins them, so that filling leaves the hole out."""
    nearest = int(np.argmin(np.hypot(*(hole - outline[0]).T)))
    hole = np.roll(hole, -nearest, axis=0)
    return np.concatenate([outline, outline[:1], hole, hole[:1]])


def _wavy_outline(rng: np.random.Generator, strength: float) -> Polygon:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.ones_like(angle)
    for k in range(2, 7):
        radius += rng.normal(0, strength / k**0.5) * np.cos(k * angle + rng.uniform(0, 6.3))
    radius = np.clip(radius, 0.3, None)
    squash = rng.uniform(0.55, 1.0)
    outline = np.stack([np.cos(angle), squash * np.sin(angle)], axis=1) * (radius / radius.max())[:, None]
    return _turned(rng, outline)


def _turned(rng: np.random.Generator, outline: Polygon) -> Polygon:
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    turned: Polygon = outline @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _ribbon(rng: np.random.Generator, width: float, bend: float) -> Polygon:
    """A band of half the given width on both sides of a curved center line, with round ends."""
    steps = 24
    turns = np.cumsum(rng.normal(0, 1, steps))
    heading = bend * (turns - turns.mean()) / max(np.abs(turns - turns.mean()).max(), 1e-6)
    heading = np.convolve(np.pad(heading, 3, mode="edge"), np.full(7, 1 / 7), mode="valid")
    line = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)
    line = (line - line.mean(0)) / max(np.abs(line - line.mean(0)).max(), 1e-6) * (1 - width)
    normal = width * np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    cap = np.linspace(-np.pi / 2, np.pi / 2, 7)[1:-1]
    last = line[-1] + width * np.stack([np.cos(heading[-1] + cap), np.sin(heading[-1] + cap)], axis=1)
    first = line[0] - width * np.stack([np.cos(heading[0] + cap), np.sin(heading[0] + cap)], axis=1)
    return _turned(rng, np.concatenate([line - normal, last, (line + normal)[::-1], first]))


@lru_cache(maxsize=1024)
def _glyph(character: str, font: int, thickness: int) -> NDArray[np.float64]:
    """Outline of a character with its holes, about [-1, 1]."""
    canvas = np.zeros((2 * GLYPH_PX, 2 * GLYPH_PX), np.uint8)
    cv2.putText(canvas, character, (GLYPH_PX // 2, 3 * GLYPH_PX // 2), font, 3.5, 255, thickness)
    contours, hierarchy = cv2.findContours(canvas, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_TC89_L1)
    outers = [k for k in range(len(contours)) if hierarchy[0][k][3] < 0]
    largest = max(outers, key=lambda k: cv2.contourArea(contours[k]))
    outline = contours[largest][:, 0].astype(np.float64)
    for k, contour in enumerate(contours):
        if hierarchy[0][k][3] == largest and len(contour) > 3:
            outline = with_hole(outline, contour[:, 0].astype(np.float64))
    low, high = outline.min(0), outline.max(0)
    scaled: NDArray[np.float64] = (outline - (low + high) / 2) / (high - low).max() * 2
    return scaled


SILHOUETTES: dict[str, Family] = {
    "star_convex": star_convex, "cell": cell, "disk": disk, "rod": rod, "fiber": fiber,
    "ring": ring, "facets": facets, "letter": letter,
}  # fmt: skip
