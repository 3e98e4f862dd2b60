"""Draws and augmentation are functions of (seed, position)."""

import itertools
import random

import numpy as np
import pytest
import torch

from s4m_pipeline.data import seeding
from s4m_pipeline.data.seeding import SeededSampler, seed_all, seed_cpu

FIVE = range(5)


def first(sampler: SeededSampler, count: int) -> list[seeding.Draw]:
    return list(itertools.islice(sampler, count))


def test_sampler__each_pass_holds_every_image_once_with_new_keys() -> None:
    draws = first(SeededSampler(FIVE, seed=1), 15)
    for start in (0, 5, 10):
        assert sorted(draw.place for draw in draws[start : start + 5]) == list(FIVE)
    assert len({draw.key for draw in draws}) == 15


def test_sampler__skip_continues_where_an_uninterrupted_run_would_be() -> None:
    resumed = SeededSampler(FIVE, seed=1)
    resumed.skip(7)
    assert first(resumed, 4) == first(SeededSampler(FIVE, seed=1), 11)[7:]


def test_sampler__ranks_share_the_draws_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = first(SeededSampler(FIVE, seed=1), 12)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(seeding, "get_dist_info", lambda rank=rank: (rank, 2))
        shares.append(SeededSampler(FIVE, seed=1))
    assert [
        draw for pair in zip(first(shares[0], 6), first(shares[1], 6), strict=True) for draw in pair
    ] == whole
    shares[1].skip(2)
    assert first(shares[1], 2) == whole[5:9:2]


def test_sampler__seed_changes_order_and_keys() -> None:
    one, other = first(SeededSampler(range(50), 1), 50), first(SeededSampler(range(50), 2), 50)
    assert [draw.place for draw in one] != [draw.place for draw in other]
    assert not {draw.key for draw in one} & {draw.key for draw in other}


def test_seed_all__same_key_repeats_all_generators() -> None:
    def sample(*key: int) -> tuple[float, float, float]:
        seed_all(*key)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert sample(1, 2) == sample(1, 2)
    assert not set(sample(1, 2)) & set(sample(2, 1))


def test_seed_cpu__gives_the_numbers_of_seed_all() -> None:
    def sample() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_all(3, 4)
    expected = sample()
    seed_cpu(3, 4)
    assert sample() == expected
