"""Surfaces for randomized scenes: procedural noise, and patches of photographs that scikit-image carries.

All photographs lie inside scikit-image's wheel and are in the public domain or under CC0, as `skimage.data`
documents:

| file | what it shows | terms |
|---|---|---|
| brick.png, gravel.png | a wall, gravel (CC0Textures) | CC0 |
| grass.png | grass (linolafett) | CC0 |
| camera.png | a cameraman on a meadow (Lav Varshney) | CC0 |
| chelsea.png | a cat's fur and face (Stefan van der Walt) | CC0 |
| coffee.png | a cup on a table (Rachel Michetti) | CC0 |
| retina.jpg | the back of an eye (Mikael Haggstrom) | CC0 |
| clock_motion.png | a blurred clock (Stefan van der Walt) | public domain |
| rocket.jpg | a rocket's launch at night (SpaceX) | public domain |

The coins are left out: they are for measuring only. So are photographs whose terms the documentation does
not state (moon, page, motorcycle), and those that are full of small objects (cells, galaxies).
"""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

PHOTOS = (
    "brick.png", "gravel.png", "grass.png", "camera.png", "chelsea.png", "coffee.png", "retina.jpg",
    "clock_motion.png", "rocket.jpg",
)  # fmt: skip
PHOTO_PX = 512
"""Longest side that a photograph is kept at."""


def noise_field(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Procedural noise (size, size) float32 of mean 0 and standard deviation 1.

    Octaves from the whole field down to a few pixels with a random slope between them; sometimes stretched to
    fibers, folded to ridges, or stripes.
    """
    field: NDArray[np.float32] = np.zeros((size, size), np.float32)
    slope, stretch = rng.uniform(0.3, 1.6), rng.choice((1, 1, 1, 3, 6))
    for octave in range(1, int(np.log2(size))):
        cells = 2**octave
        grid = rng.standard_normal((cells + 1, max(cells // stretch, 1) + 1), dtype=np.float32)
        if stretch > 1 and octave % 2:
            grid = np.ascontiguousarray(grid[:, ::-1])
        field += cells**-slope * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    kind = rng.random()
    if kind < 0.15:
        field = -np.abs(field)
    elif kind < 0.25:
        ys, xs = np.mgrid[:size, :size].astype(np.float32) * (2 * np.pi / rng.uniform(3, 20))
        angle = rng.uniform(0, np.pi)
        field = np.asarray(np.sin(xs * np.cos(angle) + ys * np.sin(angle) + field), np.float32)
    if stretch > 1 and rng.random() < 0.5:
        field = np.asarray(field.T, np.float32)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), np.float32)


def photo_patch(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """A patch of one of `PHOTOS`, scaled, turned and mirrored: (size, size, 3) float32 RGB in [0, 1]."""
    photo = _photos()[rng.integers(len(PHOTOS))]
    side = int(min(size * np.exp(rng.uniform(-1.1, 0.7)), *photo.shape[:2]))
    top, left = (int(rng.integers(length - side + 1)) for length in photo.shape[:2])
    patch = photo[top : top + side, left : left + side]
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    patch = np.ascontiguousarray(np.rot90(patch, int(rng.integers(4))))
    method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    resized = cv2.resize(patch, (size, size), interpolation=method)
    return np.asarray(resized.astype(np.float32) / 255, np.float32)


@lru_cache(maxsize=1)
def _photos() -> list[NDArray[np.uint8]]:
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return [_read_photo(folder / name) for name in PHOTOS]


def _read_photo(path: Path) -> NDArray[np.uint8]:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise FileNotFoundError(f"{path}: scikit-image's photograph cannot be read; reinstall scikit-image")
    scale = min(1.0, PHOTO_PX / max(bgr.shape[:2]))
    small = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small[..., ::-1], dtype=np.uint8)
