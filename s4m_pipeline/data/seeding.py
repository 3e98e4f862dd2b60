"""Randomness as a function of (seed, position), so that no random state has to be saved to resume a run.

The n-th image drawn and the n-th iteration each get generators seeded by (seed, n). A run that is killed and
resumed, or that loads images with a different number of workers, therefore computes the same.
"""

import itertools
import random
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATASETS
from torch.utils.data import Dataset, Sampler

from s4m_pipeline.data.images import loading

_IMAGE_STREAM = 0
STEP_STREAM = 1
"""Second numbers of the keys of images and of iterations."""


class Draw(NamedTuple):
    """One image to be loaded."""

    place: int
    """Index in the data set."""
    key: tuple[int, ...]
    """Seeds its augmentation."""
    generation: int | None = None
    """Number of the pseudo-labels to be read; None for a data set with labels of its own."""


def hash_key(*key: int) -> int:
    """A seed of 32 bits from any non-negative numbers."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def seed_all(*key: int) -> None:
    """Seed Python's, NumPy's and torch's global generators with a hash of `key` (non-negative numbers)."""
    torch.manual_seed(seed_cpu(*key))


def seed_cpu(*key: int) -> int:
    """As `seed_all`, but without the generators of GPUs, which take most of the time; returns the hash."""
    seed = hash_key(*key)
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    return seed


def shuffled_draws(
    size: int, shuffle_seed: int, key: tuple[int, ...], *, start: int = 0, step: int = 1
) -> Iterator[Draw]:
    """Endless passes over `size` images, each in a new order: every `step`-th draw from position `start` on.

    Args:
        shuffle_seed: seeds the order of every pass.
        key: of the stream; a draw's own key is this followed by its position.
    """
    generator = torch.Generator().manual_seed(shuffle_seed)
    passes = (torch.randperm(size, generator=generator).tolist() for _ in itertools.count())
    draws = enumerate(itertools.chain.from_iterable(passes))
    for position, place in itertools.islice(draws, start, None, step):
        yield Draw(place, (*key, position))


class SeededSampler(Sampler[Draw]):
    """Endless shuffled passes over a data set; each rank takes every `world_size`-th draw.

    Args:
        dataset: what is drawn from.
        seed: seeds the order of every pass and the augmentation of every draw.
    """

    def __init__(self, dataset: Sized, seed: int) -> None:
        self.size = len(dataset)
        self.seed = seed
        self.rank, self.world_size = get_dist_info()
        self.skipped = 0

    def __iter__(self) -> Iterator[Draw]:
        start = self.rank + self.skipped * self.world_size
        key = (self.seed, _IMAGE_STREAM)
        return shuffled_draws(self.size, self.seed, key, start=start, step=self.world_size)

    def __len__(self) -> int:
        return self.size

    def skip(self, num_samples: int) -> None:
        """Start after this rank's first `num_samples` draws; mmengine's loop calls it on resuming."""
        self.skipped = num_samples


class SeededDataset(Dataset):
    """A data set whose augmentation depends on the draw's key, not on what a worker loaded before.

    Args:
        dataset: config of the wrapped data set; draws with a generation need one with pseudo-labels.
    """

    def __init__(self, dataset: dict) -> None:
        self.dataset: Any = DATASETS.build(dataset)

    @property
    def metainfo(self) -> dict:
        """That of the wrapped data set, with `classes`."""
        return self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        """The image of a draw.

        Raises:
            LoadingError: if it, or its labels, cannot be read.
        """
        seed_cpu(*draw.key)
        with loading():
            if draw.generation is not None:
                self.dataset.use_generation(draw.generation)
            return self.dataset[draw.place]
