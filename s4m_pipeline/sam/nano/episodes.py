"""Training material of the nano SAM 2: endless scenes with promptable targets, objects and their parts."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from s4m_cache.masks import tight_box
from s4m_pipeline.data.scenes.randomized import draw_randomized_scene
from s4m_pipeline.data.scenes.render import Scene, SceneObject
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES, OTHER_FAMILIES

INPUT_PX = 192  # the nano model's input
LOGITS_PX = 48  # its mask logits
DENSE_PX = 24  # the auxiliary head's grid, stride 8
MAX_POINTS = 5
# Share of targets that are whole objects: nearly all for the first half of the prompts (three points each),
# half for the others, so that a single point stays ambiguous.
WHOLE_SHARES = (0.95, 0.5)
MIN_TARGET_CELLS = 3.0  # of the mask logits; smaller targets cannot be told from nothing
CENTER_WAVELENGTHS = (2.0, 0.5, 0.25)  # of the dense center code, in image sides
CODE_CHANNELS = 4 * len(CENTER_WAVELENGTHS)
SEED_SPACE = 11  # first word of the generators' seeds: no other scenes of the project use it


@dataclass(frozen=True)
class Episode:
    """One image with P prompts.

    Attributes:
        image: (3, 192, 192) uint8 RGB.
        points: (P, 5, 2) float32, x and y in input pixels, all inside the target.
        boxes: (P, 2, 2) float32, jittered corners x, y in input pixels.
        rough_logits: (P, 48, 48) float32, the target as a weak teacher might see it.
        targets: (P, 48, 48) float32 in [0, 1], the share of each cell that the target covers.
        dense: (2 + 2 * CODE_CHANNELS, 24, 24) float32; see `dense_targets`.
    """

    image: Tensor
    points: Tensor
    boxes: Tensor
    rough_logits: Tensor
    targets: Tensor
    dense: Tensor


class EpisodeStream(IterableDataset[Episode]):
    """Endless episodes; worker w of W draws every W-th scene of the sequence that `seeds` stands for."""

    def __init__(self, seeds: tuple[int, ...], prompts_per_image: int) -> None:
        self.seeds = seeds
        self.prompts_per_image = prompts_per_image

    def __iter__(self) -> Iterator[Episode]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        index, step = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            rng = np.random.default_rng([SEED_SPACE, *self.seeds, index])
            episode = draw_episode(rng, self.prompts_per_image)
            if episode is not None:
                yield episode
            index += step


def draw_episode(rng: np.random.Generator, num_prompts: int) -> Episode | None:
    """Draw a scene and its prompts; None if nothing large enough is visible."""
    scene = draw_randomized_scene(rng, {**DEMO_FAMILIES, **OTHER_FAMILIES})
    side = scene.image.shape[0]
    scale = INPUT_PX / side
    min_area = MIN_TARGET_CELLS * (side / LOGITS_PX) ** 2
    objects = [item for item in scene.objects if item.mask.sum() >= min_area]
    if not objects:
        return None
    shares = [WHOLE_SHARES[2 * prompt >= num_prompts] for prompt in range(num_prompts)]
    targets = [_choose_target(rng, objects, share, min_area) for share in shares]
    cells = [cell_coverage(target) for target in targets]
    return Episode(
        image=torch.from_numpy(to_input(scene.image)),
        points=_stack([points_inside(rng, target, MAX_POINTS) * scale for target in targets]),
        boxes=_stack([_jittered_box(rng, target) * scale for target in targets]),
        rough_logits=_stack([_rough_logits(rng, coverage) for coverage in cells]),
        targets=_stack(cells),
        dense=torch.from_numpy(dense_targets(scene)),
    )


def _stack(arrays: list[NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float32))


def to_input(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 to (3, 192, 192) uint8."""
    resized = cv2.resize(image, (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized.transpose(2, 0, 1))


def cell_coverage(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(H, W) bool to (48, 48) float32: the share of each cell that is covered."""
    # Area interpolation of OpenCV averages only when it shrinks: enlarge first.
    side = -(-mask.shape[0] // LOGITS_PX) * LOGITS_PX
    large = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.resize(large, (LOGITS_PX, LOGITS_PX), interpolation=cv2.INTER_AREA), np.float32)


def dense_targets(scene: Scene) -> NDArray[np.float32]:
    """Per-cell supervision that teaches the trunk which object and which part a cell belongs to.

    Channels: object coverage; closeness to an outline; then for the owning object and for the owning part the
    sine and cosine of its center's x and y at each wavelength. A linear read-out of such a code can single
    out one center, which is just what SAM's mask embedding has to do.

    Returns:
        (2 + 2 * CODE_CHANNELS, 24, 24) float32.
    """
    size = scene.image.shape[0]
    objects, parts = np.zeros((2, size, size), np.int32)
    next_part = 1
    for number, item in enumerate(scene.objects, start=1):
        objects[item.mask] = number
        for part in item.part_masks:
            parts[part] = next_part
            next_part += 1
    outline = np.zeros((size, size), np.float32)
    for axis in (0, 1):
        crossing = np.diff(objects, axis=axis) != 0
        before, after = ([slice(None), slice(None)] for _ in range(2))
        before[axis], after[axis] = slice(0, -1), slice(1, None)
        outline[tuple(before)][crossing] = 1
        outline[tuple(after)][crossing] = 1
    borders = cv2.resize(
        np.stack([(objects > 0).astype(np.float32), outline], axis=2),
        (DENSE_PX, DENSE_PX),
        interpolation=cv2.INTER_AREA,
    )
    codes = [_center_codes(labels) for labels in (objects, parts)]
    return np.concatenate([borders.transpose(2, 0, 1), *codes])


def _center_codes(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """(CODE_CHANNELS, 24, 24): code of the center of each cell's label, the mean of 2 x 2 samples."""
    size = labels.shape[0]
    counts = np.maximum(np.bincount(labels.ravel()), 1)
    steps = (np.arange(size) + 0.5) / size
    xs = np.bincount(labels.ravel(), np.tile(steps, size)) / counts
    ys = np.bincount(labels.ravel(), np.repeat(steps, size)) / counts
    phases = [2 * np.pi * center / length for length in CENTER_WAVELENGTHS for center in (xs, ys)]
    table = np.stack([*np.sin(phases), *np.cos(phases)], axis=1).astype(np.float32)
    table[0] = 0
    samples = cv2.resize(labels, (2 * DENSE_PX, 2 * DENSE_PX), interpolation=cv2.INTER_NEAREST)
    return np.asarray(
        table[samples].reshape(DENSE_PX, 2, DENSE_PX, 2, -1).mean((1, 3)).transpose(2, 0, 1), np.float32
    )


def _choose_target(
    rng: np.random.Generator, objects: list[SceneObject], whole_share: float, min_area: float
) -> NDArray[np.bool_]:
    item = objects[rng.integers(len(objects))]
    parts = [part for part in item.part_masks if part.sum() >= min_area]
    if rng.random() < whole_share or not parts:
        return item.mask
    return parts[rng.integers(len(parts))]


def points_inside(rng: np.random.Generator, target: NDArray[np.bool_], count: int) -> NDArray[np.float32]:
    """(count, 2) pixel centers x, y drawn uniformly from the target, repeated only if it is smaller."""
    ys, xs = np.nonzero(target)
    chosen = rng.choice(len(xs), count, replace=len(xs) < count)
    return np.stack([xs[chosen], ys[chosen]], axis=1).astype(np.float32) + 0.5


def box_corners(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(2, 2) corners x, y around the mask, in pixels."""
    y0, x0, y1, x1 = tight_box(mask)
    return np.array([[x0, y0], [x1, y1]], np.float32)


def _jittered_box(rng: np.random.Generator, target: NDArray[np.bool_]) -> NDArray[np.float32]:
    corners = box_corners(target)
    return corners + rng.normal(0, 0.04, (2, 2)).clip(-0.1, 0.1) * (corners[1] - corners[0])


def _rough_logits(rng: np.random.Generator, cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """A blurred, displaced version of the target as mask logits, as a weak teacher would give."""
    shift = np.array([[1, 0, rng.normal(0, 1)], [0, 1, rng.normal(0, 1)]], np.float32)
    moved = cv2.warpAffine(cells, shift, cells.shape)
    soft = np.asarray(cv2.GaussianBlur(moved, (0, 0), rng.uniform(0.5, 2.5)), np.float32).clip(0.01, 0.99)
    logits: NDArray[np.float32] = np.log(soft / (1 - soft))
    return logits
