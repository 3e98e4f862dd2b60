"""What a camera and a file format do to a picture: exposure, optics, sensor noise, compression."""

import cv2
import numpy as np
from numpy.typing import NDArray

from s4m_pipeline.data.scenes.textures import noise_field

MIN_CONTRAST = 0.15
"""Smallest share of the range that a picture is compressed to."""
FALSE_COLORS = (cv2.COLORMAP_VIRIDIS, cv2.COLORMAP_JET, cv2.COLORMAP_INFERNO, cv2.COLORMAP_BONE,
                cv2.COLORMAP_OCEAN, cv2.COLORMAP_PINK)  # fmt: skip


def to_gray(rng: np.random.Generator, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Luminance with randomly weighted channels, repeated to three: (H, W, 3)."""
    weights = rng.dirichlet((3, 6, 1.5)).astype(np.float32)
    return np.repeat((image @ weights)[..., None], 3, axis=2)


def photograph(rng: np.random.Generator, image: NDArray[np.float32], max_blur_px: float) -> NDArray[np.uint8]:
    """Randomly exposed, blurred, noisy and compressed; anything from one of these to all of them.

    Args:
        image: (H, W, 3) float32 RGB, the clean picture in about [0, 1].
        max_blur_px: largest standard deviation of the blur, which the smallest object must bear.

    Returns:
        (H, W, 3) uint8.
    """
    size, chance = image.shape[0], rng.uniform(0, 0.7)
    image = np.clip(image, 0, 1)
    if rng.random() < 0.6 * chance:
        light = cv2.resize(rng.standard_normal((3, 3), dtype=np.float32), (size, size), interpolation=2)
        image = np.clip(image * (1 + rng.uniform(0.05, 0.3) * light[..., None]), 0, 1)
    if rng.random() < chance:
        image = image ** np.float32(np.exp(rng.uniform(-0.8, 0.8)))
    if rng.random() < chance:
        sigma = rng.uniform(0.3, max(max_blur_px, 0.4))
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)
    contrast = np.exp(rng.uniform(np.log(MIN_CONTRAST), 0)) if rng.random() < 1.2 * chance else 1.0
    if rng.random() < chance:
        image = 1 - image
    image = contrast * image + rng.uniform(0, 1 - contrast)
    image = _sensor_noise(rng, image, contrast, chance)
    pixels = np.clip(np.round(255 * image), 0, 255).astype(np.uint8)
    if rng.random() < 0.06:
        colormap = FALSE_COLORS[rng.integers(len(FALSE_COLORS))]
        pixels = np.asarray(cv2.applyColorMap(pixels[..., 1], colormap), np.uint8)
    return _jpeg(pixels, int(rng.integers(25, 96))) if rng.random() < 0.5 * chance else pixels


def _sensor_noise(
    rng: np.random.Generator, image: NDArray[np.float32], contrast: float, chance: float
) -> NDArray[np.float32]:
    """Additive, shot and salt noise, in proportion to the contrast; sometimes the same in all channels."""
    shape = (*image.shape[:2], 1 if rng.random() < 0.6 else 3)
    if rng.random() < 1.4 * chance:
        sd = contrast * 0.12 * rng.random() ** 1.5
        image = image + np.float32(sd) * rng.standard_normal(shape, dtype=np.float32)
    if rng.random() < 0.6 * chance:
        sds = np.float32(contrast * rng.uniform(0.02, 0.12)) * np.sqrt(np.clip(image, 0, 1))
        image = image + sds * rng.standard_normal(shape, dtype=np.float32)
    if rng.random() < 0.4 * chance:  # grain of a few pixels, as demosaicing and scaling leave it
        image = (
            image + np.float32(contrast * rng.uniform(0.01, 0.04)) * noise_field(rng, len(image))[..., None]
        )
    if rng.random() < 0.25 * chance:
        struck = rng.random(shape[:2]) < rng.uniform(0.001, 0.03)
        image = np.where(struck[..., None], rng.choice((0.0, 1.0), (*shape[:2], 1)), image)
    return image.astype(np.float32)


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    _, encoded = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
