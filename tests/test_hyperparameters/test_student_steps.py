"""The paper's numbers in the student's steps: what a batch holds, and the average of its weights."""

from typing import Any

import pytest
from torch import nn

from s4m_pipeline.data.loaders import coco_dataset
from s4m_pipeline.student.build import two_branch_dataloader
from s4m_pipeline.train.launch import batch_per_rank
from s4m_pipeline.train.runner import ema_hooks
from tests.test_hyperparameters.experiments import Built


@pytest.mark.parametrize("ranks", [1, 4])
def test_student__every_batch_holds_the_papers_shares(ranks: int, built: Built, tiny_coco: Any) -> None:
    from mmengine.runner import Runner

    student = built.options.student
    assert student is not None
    shares = tuple(
        batch_per_rank("", size, ranks, 1) for size in (student.batch_size, student.unlabeled_batch_size)
    )
    images = coco_dataset(tiny_coco.annotations("train"), tiny_coco.images("train"), [])
    loader = Runner.build_dataloader(
        two_branch_dataloader(images, images, batch_sizes=shares, workers=0, seed=0)
    )
    batches = iter(loader.batch_sampler)
    wanted = {"cityscapes": 16, "coco": 12}[built.name] // ranks
    for _ in range(3):
        branches = [draw.branch for draw in next(batches)]
        assert branches == ["labeled"] * wanted + ["unlabeled"] * wanted


def test_average__begins_at_the_end_of_the_burn_in_and_keeps_9996_of_10000(built: Built) -> None:
    from mmengine.registry import HOOKS

    student = built.options.student
    assert student is not None
    (config,) = ema_hooks(student.ema, student.burn_in)
    hook = HOOKS.build(config)
    assert hook.begin_iter == {"cityscapes": 15_000, "coco": 25_000}[built.name]
    network = nn.Linear(1, 1, bias=False)
    average = hook.ema_cfg["type"](network, momentum=hook.ema_cfg["momentum"])
    average.update_parameters(network)  # the first update copies
    before = network.weight.item()
    network.weight.data += 1
    average.update_parameters(network)
    assert average.module.weight.item() - before == pytest.approx(0.0004, rel=1e-2)
