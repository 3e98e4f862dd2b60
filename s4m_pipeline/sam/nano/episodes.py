"""Training material of the nano SAM 2: endless scenes with promptable targets, objects and their parts."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from s4m_pipeline.data.scenes.render import Scene, SceneObject, SceneStyle, draw_scene
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES, OTHER_FAMILIES

INPUT_PX = 192  # the nano model's input
LOGITS_PX = 48  # its mask logits
DENSE_PX = 24  # the auxiliary head's grid, stride 8
MAX_POINTS = 5
# Share of targets that are whole objects: nearly all for the first half of the prompts (three points each),
# half for the others, so that a single point stays ambiguous.
WHOLE_SHARES = (0.95, 0.5)
MIN_TARGET_PX = 30
CENTRE_WAVELENGTHS = (2.0, 0.5, 0.25)  # of the dense centre code, in image sides


@dataclass(frozen=True)
class Episode:
    """One image with P prompts.

    Attributes:
        image: (3, 192, 192) uint8 RGB.
        points: (P, 5, 2) float32, x and y in input pixels, all inside the target.
        boxes: (P, 2, 2) float32, jittered corners x, y in input pixels.
        rough_logits: (P, 48, 48) float32, the target as a weak teacher might see it.
        targets: (P, 48, 48) float32 in [0, 1], the share of each cell that the target covers.
        dense: (2 + 2 * 4 * len(CENTRE_WAVELENGTHS), 24, 24) float32; see `dense_targets`.
    """

    image: Tensor
    points: Tensor
    boxes: Tensor
    rough_logits: Tensor
    targets: Tensor
    dense: Tensor


class EpisodeStream(IterableDataset[Episode]):
    """Endless episodes; worker w of W draws every W-th scene of the seed's sequence."""

    def __init__(self, seed: int, prompts_per_image: int) -> None:
        self.seed = seed
        self.prompts_per_image = prompts_per_image

    def __iter__(self) -> Iterator[Episode]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        index, step = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            rng = np.random.default_rng([self.seed, index])
            episode = draw_episode(rng, self.prompts_per_image)
            if episode is not None:
                yield episode
            index += step


def draw_episode(rng: np.random.Generator, num_prompts: int) -> Episode | None:
    """Draw a scene and its prompts; None if nothing large enough is visible."""
    scene = draw_scene(rng, {**DEMO_FAMILIES, **OTHER_FAMILIES}, _training_style(rng))
    if not scene.objects:
        return None
    shares = [WHOLE_SHARES[2 * prompt >= num_prompts] for prompt in range(num_prompts)]
    targets = [_choose_target(rng, scene.objects, share) for share in shares]
    scale = INPUT_PX / scene.image.shape[0]
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
    """(H, W, 3) uint8 to the model's (3, 192, 192) uint8."""
    resized = cv2.resize(image, (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized.transpose(2, 0, 1))


def cell_coverage(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(H, W) bool to (48, 48) float32: the share of each cell that is covered."""
    cells = cv2.resize(mask.astype(np.float32), (LOGITS_PX, LOGITS_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(cells, np.float32)


def dense_targets(scene: Scene) -> NDArray[np.float32]:
    """Per-cell supervision that teaches the trunk which object and which part a cell belongs to.

    Channels: object coverage; closeness to an outline; then for the owning object and for the owning part the
    sine and cosine of its centre's x and y at each wavelength. A linear read-out of such a code can single
    out one centre, which is just what SAM's mask embedding has to do.
    """
    size = scene.image.shape[0]
    coverage = np.zeros((size, size), np.float32)
    outline = np.zeros((size, size), np.uint8)
    codes = np.zeros((2, 4 * len(CENTRE_WAVELENGTHS), size, size), np.float32)
    for item in scene.objects:
        coverage[item.mask] = 1
        codes[0][:, item.mask] = _centre_code(item.mask)[:, None]
        for part in item.part_masks:
            codes[1][:, part] = _centre_code(part)[:, None]
        contours, _ = cv2.findContours(item.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(outline, contours, -1, 1, 1)
    channels = [coverage, outline.astype(np.float32), *codes.reshape(-1, size, size)]
    cells = [cv2.resize(c, (DENSE_PX, DENSE_PX), interpolation=cv2.INTER_AREA) for c in channels]
    return np.stack(cells)


def _centre_code(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    ys, xs = np.nonzero(mask)
    centre = np.array([xs.mean(), ys.mean()]) / mask.shape[0]
    phases = np.concatenate([2 * np.pi * centre / wavelength for wavelength in CENTRE_WAVELENGTHS])
    return np.concatenate([np.sin(phases), np.cos(phases)]).astype(np.float32)


def _training_style(rng: np.random.Generator) -> SceneStyle:
    if rng.random() < 0.5:
        return SceneStyle()
    smallest = rng.uniform(9, 16)
    return SceneStyle(
        num_objects=(2, 8),
        radius_px=(smallest, smallest * rng.uniform(1.5, 2.5)),
        neighbour_probability=rng.uniform(0.2, 0.7),
        noise=rng.uniform(2, 12),
    )


def _choose_target(
    rng: np.random.Generator, objects: list[SceneObject], whole_share: float
) -> NDArray[np.bool_]:
    item = objects[rng.integers(len(objects))]
    parts = [part for part in item.part_masks if part.sum() >= MIN_TARGET_PX]
    if rng.random() < whole_share or not parts:
        return item.mask
    return parts[rng.integers(len(parts))]


def points_inside(rng: np.random.Generator, target: NDArray[np.bool_], count: int) -> NDArray[np.float32]:
    """(count, 2) pixel centres x, y drawn uniformly from the target, repeated only if it is smaller."""
    ys, xs = np.nonzero(target)
    chosen = rng.choice(len(xs), count, replace=len(xs) < count)
    return np.stack([xs[chosen], ys[chosen]], axis=1).astype(np.float32) + 0.5


def tight_box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(2, 2) corners x, y around the mask, in pixels."""
    ys, xs = np.nonzero(mask)
    return np.array([[xs.min(), ys.min()], [xs.max() + 1, ys.max() + 1]], np.float32)


def _jittered_box(rng: np.random.Generator, target: NDArray[np.bool_]) -> NDArray[np.float32]:
    corners = tight_box(target)
    return corners + rng.normal(0, 0.04, (2, 2)).clip(-0.1, 0.1) * (corners[1] - corners[0])


def _rough_logits(rng: np.random.Generator, cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """A blurred, displaced version of the target as mask logits, as a weak teacher would give."""
    shift = np.array([[1, 0, rng.normal(0, 1)], [0, 1, rng.normal(0, 1)]], np.float32)
    moved = cv2.warpAffine(cells, shift, (LOGITS_PX, LOGITS_PX))
    soft = np.asarray(cv2.GaussianBlur(moved, (0, 0), rng.uniform(0.5, 2.5)), np.float32).clip(0.01, 0.99)
    logits: NDArray[np.float32] = np.log(soft / (1 - soft))
    return logits
