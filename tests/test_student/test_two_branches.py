"""Labeled and unlabeled images in one loader: each branch a function of (seed, position), resumable."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.loaders import coco_dataset
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.student import two_branches
from s4m_pipeline.student.two_branches import BranchDraw, TwoBranchDataset, TwoBranchSampler
from tests.conftest import TinyCoco
from tests.test_student.labeled_scenes import PIPELINE, painted_labels, pseudo_labeled, publish_labels

LABELED, UNLABELED = 2, 3
BATCH = LABELED + UNLABELED


def sampler(sizes: tuple[int, int] = (5, 7), seed: int = 1, labeled: int = 2, unlabeled: int = 3) -> Any:
    images = dict(zip(("labeled", "unlabeled"), map(range, sizes), strict=True))
    return TwoBranchSampler(SimpleNamespace(branches=images), seed, labeled, unlabeled)  # type: ignore[arg-type]


def first(draws: Any, count: int) -> list[BranchDraw]:
    return list(itertools.islice(draws, count))


def of_branch(draws: list[BranchDraw], branch: str) -> list[Any]:
    return [draw.draw for draw in draws if draw.branch == branch]


def test_sampler__each_step__is_first_labeled_then_unlabeled() -> None:
    assert [draw.branch for draw in first(sampler(), 2 * BATCH)] == [
        *["labeled"] * 2,
        *["unlabeled"] * 3,
    ] * 2


def test_sampler__each_pass_of_a_branch__holds_every_image_once_with_new_keys() -> None:
    draws = first(sampler(), 14 * BATCH)
    for branch, size in (("labeled", 5), ("unlabeled", 7)):
        own = of_branch(draws, branch)
        passes = [own[start : start + size] for start in range(0, len(own) - size + 1, size)]
        assert all(sorted(draw.place for draw in one) == list(range(size)) for one in passes)
        assert len({tuple(draw.place for draw in one) for one in passes}) > 1
        assert len({draw.key for draw in own}) == len(own)
    assert len({draw.draw.key for draw in draws}) == len(draws)


def test_sampler__a_branch__does_not_depend_on_the_other() -> None:
    draws = first(sampler(), 10 * BATCH)
    other = first(sampler(sizes=(50, 7), labeled=1), 10 * 4)
    assert of_branch(draws, "unlabeled") == of_branch(other, "unlabeled")
    other = first(sampler(sizes=(5, 70), unlabeled=1), 10 * 3)
    assert of_branch(draws, "labeled") == of_branch(other, "labeled")


def test_sampler__branches_of_one_size__are_shuffled_differently() -> None:
    draws = first(sampler(sizes=(40, 40), labeled=1, unlabeled=1), 80)
    assert [d.place for d in of_branch(draws, "labeled")] != [d.place for d in of_branch(draws, "unlabeled")]


def test_sampler__skip__continues_where_an_uninterrupted_run_would_be() -> None:
    whole = first(sampler(), 40)
    for skipped in (0, 1, 4, BATCH, 3 * BATCH, 17):
        resumed = sampler()
        resumed.skip(skipped)
        assert first(resumed, 12) == whole[skipped : skipped + 12]


def test_sampler__ranks__share_the_draws_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = first(sampler(labeled=4, unlabeled=6), 3 * 10)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(two_branches, "get_dist_info", lambda rank=rank: (rank, 2))
        shares.append(sampler())
    shares[1].skip(BATCH)
    parts = first(shares[0], 3 * BATCH), first(sampler(), BATCH) + first(shares[1], 2 * BATCH)
    for step in range(3):
        together = set(parts[0][step * BATCH :][:BATCH]) | set(parts[1][step * BATCH :][:BATCH])
        assert together == set(whole[step * 10 :][:10])


def test_sampler__generation__marks_unlabeled_draws_of_later_iterators() -> None:
    drawn = sampler()
    old = iter(drawn)
    drawn.generation = 4
    assert {draw.draw.generation for draw in first(old, BATCH)} == {None}
    draws = first(drawn, 2 * BATCH)
    assert {draw.generation for draw in of_branch(draws, "labeled")} == {None}
    assert {draw.generation for draw in of_branch(draws, "unlabeled")} == {4}


@pytest.fixture(scope="module")
def cache(tiny_coco: TinyCoco, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generation 1 has two instances for each image, generation 2 one."""
    root = tmp_path_factory.mktemp("two_branches") / "cache"
    for number, count in ((1, 2), (2, 1)):
        publish_labels(root, number, [painted_labels(tiny_coco, i, count) for i in range(1, 7)])
    return root


def build_loader(tiny_coco: TinyCoco, unlabeled: dict[str, Any], workers: int) -> DataLoader:
    register_all()
    labeled = coco_dataset(tiny_coco.annotations("val"), tiny_coco.images("val"), PIPELINE)
    return Runner.build_dataloader(
        {
            "dataset": {"type": TwoBranchDataset, "labeled": labeled, "unlabeled": unlabeled},
            "sampler": {"type": TwoBranchSampler, "seed": 3, "labeled": LABELED, "unlabeled": UNLABELED},
            "batch_size": BATCH,
            "num_workers": workers,
            "persistent_workers": workers > 0,
        }
    )


def take(batches: Any, count: int) -> list[list[Any]]:
    """The next batches, as plain values."""
    return [
        [
            (
                sample.branch,
                sample.img_id,
                sample.flip,
                inputs.numpy().tobytes(),
                sample.gt_instances.labels.tolist(),
                sample.gt_instances.masks.to_ndarray().tobytes(),
            )
            for inputs, sample in zip(batch["inputs"], batch["data_samples"], strict=True)
        ]
        for batch in itertools.islice(batches, count)
    ]


@pytest.fixture(scope="module")
def uninterrupted(tiny_coco: TinyCoco, cache: Path) -> list[list[list[Any]]]:
    """Six batches with generation 1, and the same ones with generation 2."""
    streams = []
    for generation in (1, 2):
        loader = build_loader(tiny_coco, pseudo_labeled(tiny_coco, cache), workers=0)
        loader.sampler.generation = generation
        streams.append(take(iter(loader), 6))
    return streams


@pytest.mark.parametrize("workers", [0, 2])
def test_loader__restarted_at_a_refresh__continues_as_if_uninterrupted_with_the_new_labels(
    tiny_coco: TinyCoco, cache: Path, uninterrupted: Any, workers: int
) -> None:
    old, new = uninterrupted
    assert old[3:] != new[3:]
    loader = build_loader(tiny_coco, pseudo_labeled(tiny_coco, cache), workers)
    loader.sampler.generation = 1
    before = take(iter(loader), 3)  # of two workers' iterator two more batches each are under way by now
    loader.sampler.generation = 2
    loader.sampler.skip(3 * BATCH)
    assert before == old[:3]
    assert take(iter(loader), 3) == new[3:]


def test_loader__samples__say_their_branch_and_only_unlabeled_ones_follow_the_generation(
    uninterrupted: Any,
) -> None:
    old, new = uninterrupted
    for batch, other in zip(old, new, strict=True):
        assert [sample[0] for sample in batch] == ["labeled"] * LABELED + ["unlabeled"] * UNLABELED
        assert batch[:LABELED] == other[:LABELED]
        assert [sample[1:4] for sample in batch] == [sample[1:4] for sample in other]


def test_loader__of_labeled_images_in_both_branches__needs_no_cache(tiny_coco: TinyCoco) -> None:
    labeled = coco_dataset(tiny_coco.annotations("val"), tiny_coco.images("val"), PIPELINE)
    batches = take(iter(build_loader(tiny_coco, labeled, workers=0)), 3)
    assert {sample[0] for batch in batches for sample in batch} == {"labeled", "unlabeled"}
    assert {sample[1] for batch in batches for sample in batch} == {1, 2, 3}


@pytest.mark.parametrize("workers", [0, 1])
def test_loader__at_an_image_that_cannot_be_read__says_so_without_a_traceback(
    tiny_coco: TinyCoco, cache: Path, tmp_path: Path, workers: int
) -> None:
    unlabeled = pseudo_labeled(tiny_coco, cache, images=str(tmp_path))
    loader = build_loader(tiny_coco, unlabeled, workers)
    loader.sampler.generation = 1
    with pytest.raises(UserError) as raised:
        next(iter(loader))
    assert "no such file" in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path))
    assert "Traceback" not in str(raised.value)
