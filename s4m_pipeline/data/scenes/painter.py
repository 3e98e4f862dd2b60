"""Paint the objects of a randomized scene, and say what of each shows in the end."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from s4m_pipeline.data.scenes.layouts import Place
from s4m_pipeline.data.scenes.looks import Look
from s4m_pipeline.data.scenes.render import SceneObject, coverage
from s4m_pipeline.data.scenes.shapes import Part, Polygon

MIN_AREA_PX = 12
MIN_VISIBLE_SHARE = 0.35
MIN_SIGNAL = 0.06
"""How much an object must change the clean picture: mean absolute difference over its visible pixels."""


@dataclass(frozen=True)
class Drawn:
    name: str
    parts: range
    """Its parts' numbers in the owner map."""
    area_px: int
    """Pixels inside the image that it covered when it was painted."""
    window: tuple[slice, slice]
    change: NDArray[np.float32]
    """Within the window: absolute change of the picture by this object, largest of the channels."""


def paint_object(
    rng: np.random.Generator,
    canvas: NDArray[np.float32],
    owner: NDArray[np.int32],
    look: Look,
    name: str,
    parts: list[Part],
    place: Place,
    first_part: int,
) -> Drawn:
    outlines = [part.outline * place.radius + place.center for part in parts]
    margin = int(np.ceil(3 + 2 * look.softness_px + look.rim_width_px))
    window = _window(np.concatenate(outlines), canvas.shape[0], margin)
    view, own = canvas[window], owner[window]
    corner = np.array([window[1].start, window[0].start])
    alphas = [coverage(view.shape[:2], outline - corner) for outline in outlines]
    silhouette = np.maximum.reduce(alphas)
    if look.shadow:
        around = cv2.GaussianBlur(silhouette, (0, 0), 2.0)
        view *= (1 - look.shadow * around)[..., None]
    before = view.copy()
    depth = _depth(silhouette)
    light = _light(depth, place, corner, look)
    surface = _shifted(rng, look.texture, view.shape[:2])
    color = look.color + rng.normal(0, look.jitter, 3 if np.ptp(look.color) else 1)
    for number, (part, alpha) in enumerate(zip(parts, alphas, strict=True), start=first_part):
        inside = alpha >= 0.5
        own[inside] = number
        tone = color + look.role_colors[part.role % 4]
        _paint_part(view, alpha, tone * light[..., None] + surface, look)
    if look.rim_width_px:
        _paint_rim(view, silhouette, depth, look)
    np.clip(view, 0, 1, out=view)
    change = np.abs(view - before).max(2)
    return Drawn(
        name, range(first_part, first_part + len(parts)), int((silhouette >= 0.5).sum()), window, change
    )


def _window(outline: Polygon, size: int, margin: int) -> tuple[slice, slice]:
    low = np.clip(np.floor(outline.min(0)).astype(int) - margin, 0, size - 1)
    high = np.clip(np.ceil(outline.max(0)).astype(int) + margin, low + 1, size)
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def _depth(silhouette: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance in pixels of each inner pixel to the border; the image's own border is none."""
    inside = np.pad((silhouette >= 0.5).astype(np.uint8), 1, mode="edge")
    return np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1], np.float32)


def _light(
    depth: NDArray[np.float32], place: Place, corner: NDArray[np.int64], look: Look
) -> NDArray[np.float32]:
    """(H, W) factor of the surface's intensity: one side brighter, the border darker."""
    ys, xs = np.mgrid[: depth.shape[0], : depth.shape[1]].astype(np.float32)
    dx, dy = (
        (xs - (place.center - corner)[0]) / place.radius,
        (ys - (place.center - corner)[1]) / place.radius,
    )
    shallow = 1 - depth / max(float(depth.max()), 1.0)
    factor = 1 - look.shading * (0.5 * dx + 0.8 * dy) - look.doming * (shallow**2 - 0.3)
    return np.clip(factor, 0.3, 1.7).astype(np.float32)


def _shifted(
    rng: np.random.Generator, texture: NDArray[np.float32], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """A window of the texture at a random place."""
    top, left = (int(rng.integers(texture.shape[axis] - shape[axis] + 1)) for axis in (0, 1))
    return texture[top : top + shape[0], left : left + shape[1]]


def _paint_part(
    view: NDArray[np.float32], alpha: NDArray[np.float32], surface: NDArray[np.float32], look: Look
) -> None:
    if look.kind == "outlined":
        return
    if look.softness_px:
        alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), look.softness_px), np.float32)
    view += alpha[..., None] * (surface - view)


def _paint_rim(
    view: NDArray[np.float32], silhouette: NDArray[np.float32], depth: NDArray[np.float32], look: Look
) -> None:
    """Brighten or darken a band along the object's border, inside it."""
    band = np.clip(look.rim_width_px - depth + 0.5, 0, 1) * silhouette
    view += (look.rim * band)[..., None]


def visible_object(owner: NDArray[np.int32], drawn: Drawn) -> SceneObject | None:
    """The object as it shows in the end; None if too little of it does."""
    own = owner[drawn.window]
    seen = (own >= drawn.parts.start) & (own < drawn.parts.stop)
    area = int(seen.sum())
    if area < max(MIN_AREA_PX, MIN_VISIBLE_SHARE * drawn.area_px):
        return None
    if drawn.change[seen].mean() < MIN_SIGNAL and _border_change(drawn.change, seen) < 2 * MIN_SIGNAL:
        return None
    return SceneObject(drawn.name, _embed(owner, drawn.window, seen), _part_masks(owner, drawn))


def _border_change(change: NDArray[np.float32], seen: NDArray[np.bool_]) -> float:
    """Mean change along the inner border of the visible pixels: what an outline alone leaves."""
    inner = cv2.erode(seen.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1).astype(bool)
    border = seen & ~inner
    return float(change[border].mean()) if border.any() else 0.0


def _part_masks(owner: NDArray[np.int32], drawn: Drawn) -> list[NDArray[np.bool_]]:
    own = owner[drawn.window]
    masks = [own == part for part in drawn.parts]
    return [_embed(owner, drawn.window, mask) for mask in masks if mask.any()]


def _embed(
    owner: NDArray[np.int32], window: tuple[slice, slice], mask: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    full = np.zeros(owner.shape, bool)
    full[window] = mask
    return full
