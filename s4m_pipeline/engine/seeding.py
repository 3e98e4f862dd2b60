"""Randomness as a function of (seed, position), so that nothing random has to be saved to resume a run.

The n-th image drawn and the n-th training step each get generators seeded by (seed, n). A run that is
killed and resumed, or that loads images with another number of workers, therefore computes the same.
"""

import itertools
import random
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import Dataset, Sampler

_IMAGE_STREAM, _STEP_STREAM = 0, 1


class Draw(NamedTuple):
    """One image to be loaded: its place in the data set and the key of its augmentation."""

    place: int
    key: tuple[int, ...]


def seed_all(*key: int) -> None:
    """Seed Python's, NumPy's and torch's global generators with a hash of `key` (non-negative numbers)."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler[Draw]):
    """Endless shuffled passes over a data set, cut into the shares of the ranks.

    Args:
        dataset: what is drawn from.
        seed: decides the order of every pass and the augmentation key of every draw.
    """

    def __init__(self, dataset: Sized, seed: int) -> None:
        self.size = len(dataset)
        self.seed = seed
        self.rank, self.world_size = get_dist_info()
        self.skipped = 0

    def __iter__(self) -> Iterator[Draw]:
        draws = enumerate(self._indices())
        own = itertools.islice(draws, self.rank + self.skipped * self.world_size, None, self.world_size)
        for position, index in own:
            yield Draw(index, (self.seed, _IMAGE_STREAM, position))

    def __len__(self) -> int:
        return self.size

    def skip(self, num_samples: int) -> None:
        """Start after this rank's first `num_samples` draws; mmengine's loop calls it on resuming."""
        self.skipped = num_samples

    def _indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.randperm(self.size, generator=generator).tolist()


@DATASETS.register_module()
class SeededDataset(Dataset):
    """A data set whose augmentation is decided by the draw's key instead of by a worker's history.

    Args:
        dataset: config of the data set that is wrapped.
    """

    def __init__(self, dataset: dict) -> None:
        self.dataset: BaseDataset = DATASETS.build(dataset)

    @property
    def metainfo(self) -> dict:
        """What the wrapped data set says about itself, `classes` among it."""
        return self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        seed_all(*draw.key)
        return self.dataset[draw.place]


class SeedEachStep(Hook):
    """Seeds the network's randomness (sampled points, dropout) by (seed, step, rank).

    Args:
        seed: the run's seed.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        seed_all(self.seed, _STEP_STREAM, runner.iter, runner.rank)
