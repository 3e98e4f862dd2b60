"""How the objects and the ground of a randomized scene look."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from s4m_pipeline.data.scenes.photometric import to_gray
from s4m_pipeline.data.scenes.textures import noise_field, photo_patch


@dataclass(frozen=True)
class Look:
    """How the objects of one scene are painted; intensities in shares of the range."""

    kind: str
    """"filled", "outlined" or "textured" (of the ground's mean color)."""
    color: NDArray[np.float32]
    jitter: float
    """Standard deviation of an object's color around the scene's."""
    role_colors: NDArray[np.float32]
    """(4, 3) offsets of the parts' colors."""
    shading: float
    """Strength of the light from one side; negative values light the other."""
    doming: float
    """How much darker (or, if negative, brighter) the surface becomes from its middle to its border."""
    texture: NDArray[np.float32]
    """(H, W, 3) of mean 0, added to the surfaces; (H, W, 1) if the same in all channels."""
    rim_width_px: float
    """0 for none."""
    rim: float
    """Change of intensity in the rim."""
    shadow: float
    """Darkening around an object; negative for a halo."""
    softness_px: float
    """Standard deviation of the blur of an object's edge."""


def draw_ground(rng: np.random.Generator, size: int, gray: bool) -> NDArray[np.float32]:
    """(size, size, 3) float32 in about [0, 1]: plain, noise or a photograph, with stray lines and spots."""
    base = _random_color(rng, gray, rng.uniform(0.02, 0.98))
    canvas = np.broadcast_to(base, (size, size, 3)).copy()
    kind = rng.random()
    if kind < 0.4:
        canvas += rng.uniform(0.01, 0.15) * noise_field(rng, size)[..., None]
    elif kind < 0.7:
        patch = photo_patch(rng, size)
        patch = to_gray(rng, patch) if gray else patch
        strength = rng.uniform(0.1, 1.0)
        canvas += strength * (patch - (patch.mean((0, 1)) if rng.random() < 0.5 else base))
    if rng.random() < 0.3:
        canvas += rng.uniform(0.02, 0.12) * _slow_field(rng, size)[..., None]
    if rng.random() < 0.3:
        for _ in range(rng.integers(1, 6)):
            ends, shade = rng.integers(0, size, 4), canvas.mean() + rng.uniform(-0.3, 0.3)
            color = (_random_color(rng, gray, float(shade))).tolist()
            cv2.line(
                canvas, ends[:2].tolist(), ends[2:].tolist(), color, int(rng.integers(1, 3)), cv2.LINE_AA
            )
    return np.clip(canvas, 0, 1)


def _slow_field(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    grid = rng.standard_normal((4, 4), dtype=np.float32)
    return np.asarray(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _random_color(rng: np.random.Generator, gray: bool, value: float) -> NDArray[np.float32]:
    tint = np.zeros(3) if gray else rng.normal(0, 0.15, 3)
    return np.clip(value + tint, 0, 1).astype(np.float32)


def draw_look(rng: np.random.Generator, canvas: NDArray[np.float32], gray: bool) -> Look:
    size, ground = canvas.shape[0], canvas.mean((0, 1))
    kind = str(rng.choice(("filled", "outlined", "textured"), p=(0.76, 0.12, 0.12)))
    level = float(ground.mean())
    step = rng.uniform(0.12, 0.75) * (1 if rng.random() < 1 - level else -1)
    color = ground if kind == "textured" else _random_color(rng, gray, level + step)
    if not gray and kind == "filled" and rng.random() < 0.3:  # differs by hue as much as by value
        color = rng.uniform(0, 1, 3).astype(np.float32)
    roles = rng.uniform(-0.45, 0.45, (4, 1)) + (0 if gray else rng.normal(0, 0.15, (4, 3)))
    has_rim = kind != "outlined" and rng.random() < 0.35
    return Look(
        kind=kind,
        color=color,
        jitter=float(rng.choice((0.02, rng.uniform(0.02, 0.25)))),
        role_colors=(roles * np.array([[0], [1], [1], [1]])).astype(np.float32) * np.ones(3, np.float32),
        shading=rng.normal(0, 0.15) if rng.random() < 0.5 else 0.0,
        doming=rng.normal(0.25, 0.3) if rng.random() < 0.6 else 0.0,
        texture=_surface(rng, size, gray, kind),
        rim_width_px=rng.uniform(0.8, 3.0) * size / 128 if has_rim or kind == "outlined" else 0.0,
        rim=(step if kind == "outlined" else rng.uniform(0.1, 0.4) * rng.choice((-1, 1))),
        shadow=rng.uniform(-0.3, 0.5) if rng.random() < 0.4 else 0.0,
        softness_px=rng.uniform(0.3, 1.5) if rng.random() < 0.4 else 0.0,
    )


def _surface(rng: np.random.Generator, size: int, gray: bool, kind: str) -> NDArray[np.float32]:
    strength = rng.uniform(0.12, 0.3) if kind == "textured" else rng.choice((0.0, rng.uniform(0, 0.12)))
    if rng.random() < 0.5:
        return np.float32(strength) * noise_field(rng, size)[..., None]
    patch = photo_patch(rng, size)
    patch = to_gray(rng, patch) if gray else patch
    patch = (patch - patch.mean((0, 1))) / max(float(patch.std()), 0.02)
    return (np.float32(strength) * patch).clip(-0.6, 0.6)
