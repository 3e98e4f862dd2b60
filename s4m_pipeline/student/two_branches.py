"""Batches of labeled, then unlabeled images; each branch is drawn independently of the other."""

import itertools
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from mmengine.dist import get_dist_info
from torch.utils.data import Dataset, Sampler

from s4m_pipeline.data.seeding import Draw, SeededDataset, hash_key, shuffled_draws

Branch = Literal["labeled", "unlabeled"]
_STREAMS: dict[Branch, int] = {"labeled": 2, "unlabeled": 3}  # 0 and 1 are seeding's own


class BranchDraw(NamedTuple):
    """One image to be loaded, and its data set."""

    branch: Branch
    draw: Draw


class TwoBranchDataset(Dataset):
    """A labeled and an unlabeled data set; the metainfo `branch` of each sample names its own.

    Args:
        labeled: config of the labeled data set.
        unlabeled: config of the other: `PseudoLabeledImages`, or the labeled images for the control
            experiment.
    """

    def __init__(self, labeled: dict, unlabeled: dict) -> None:
        self.branches: dict[Branch, SeededDataset] = {
            "labeled": SeededDataset(labeled),
            "unlabeled": SeededDataset(unlabeled),
        }

    @property
    def metainfo(self) -> dict:
        """That of the labeled data set, with `classes`."""
        return self.branches["labeled"].metainfo

    def __len__(self) -> int:
        return sum(map(len, self.branches.values()))

    def __getitem__(self, draw: BranchDraw) -> Any:
        sample = self.branches[draw.branch][draw.draw]
        sample["data_samples"].set_metainfo({"branch": draw.branch})
        return sample


class TwoBranchSampler(Sampler[BranchDraw]):
    """Endless batches of first `labeled`, then `unlabeled` images; each branch is shuffled on its own.

    The n-th image of a branch and its augmentation follow from (seed, branch, n), whatever the other branch
    holds. Ranks take turns: together they draw what a single process would.

    Args:
        dataset: what is drawn from.
        seed: seeds the order of every pass and the augmentation of every draw.
        labeled: labeled images of a batch, on this rank.
        unlabeled: unlabeled ones; the sum of both is the loader's batch size.

    Attributes:
        generation: number of the generation of pseudo-labels that unlabeled images are loaded with; None if
            they have labels of their own. Like `skip`, a change applies to iterators made after it, because
            the loader requests images ahead of their use.
    """

    def __init__(self, dataset: TwoBranchDataset, seed: int, labeled: int, unlabeled: int) -> None:
        self.sizes = {branch: len(images) for branch, images in dataset.branches.items()}
        self.seed = seed
        self.counts: dict[Branch, int] = {"labeled": labeled, "unlabeled": unlabeled}
        self.generation: int | None = None
        self.rank, self.world_size = get_dist_info()
        self.skipped = 0

    def __iter__(self) -> Iterator[BranchDraw]:
        steps, rest = divmod(self.skipped, sum(self.counts.values()))
        labeled = self._draws("labeled", steps)
        generation = self.generation
        unlabeled = (draw._replace(generation=generation) for draw in self._draws("unlabeled", steps))
        return itertools.islice(self._interleave(labeled, unlabeled), rest, None)

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def skip(self, num_samples: int) -> None:
        """Start after this rank's first `num_samples` draws; mmengine's loop calls it on resuming."""
        self.skipped = num_samples

    def _draws(self, branch: Branch, steps: int) -> Iterator[Draw]:
        """This rank's draws of a branch after the first `steps` iterations."""
        key = (self.seed, _STREAMS[branch])
        start = self.rank + steps * self.counts[branch] * self.world_size
        return shuffled_draws(self.sizes[branch], hash_key(*key), key, start=start, step=self.world_size)

    def _interleave(self, labeled: Iterator[Draw], unlabeled: Iterator[Draw]) -> Iterator[BranchDraw]:
        while True:
            for draw in itertools.islice(labeled, self.counts["labeled"]):
                yield BranchDraw("labeled", draw)
            for draw in itertools.islice(unlabeled, self.counts["unlabeled"]):
                yield BranchDraw("unlabeled", draw)
