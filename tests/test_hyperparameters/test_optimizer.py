"""The paper's numbers in the optimizer: rate and decay of every weight, clipping, the rate at given steps."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from s4m_pipeline.train.runner import optim_wrapper, schedulers
from tests.test_hyperparameters.experiments import Built

UNDECAYED_EMBEDDINGS = ("query_embed", "query_feat", "level_embed")
DECAYED_LEVELS = "panoptic_head.pixel_decoder.level_encoding.weight"  # as in Mask2Former's own code


def test_optimizer__every_weight_has_the_papers_rate_and_decay(built: Built) -> None:
    from mmengine.optim import build_optim_wrapper

    wrapper = build_optim_wrapper(built.network, optim_wrapper(built.config["optim_wrapper"], "fp32"))
    assert type(wrapper.optimizer) is torch.optim.AdamW
    found = {id(weight): group for group in wrapper.param_groups for weight in group["params"]}
    expected = {id(weight): (name, decay) for name, weight, decay in _weights_and_decays(built.network)}
    assert expected.keys() <= found.keys()
    for key, (name, decay) in expected.items():
        rate = 1e-5 if name.startswith("backbone.") else 1e-4
        group = found[key]
        assert (group["lr"], group["weight_decay"]) == (pytest.approx(rate), decay), name
    assert len(wrapper.param_groups) < 10  # an optimizer is as fast as its groups are large


def _weights_and_decays(network: nn.Module) -> Iterator[tuple[str, nn.Parameter, float]]:
    """Weights that learn, with the paper's decay: 0 for those of norms and embeddings, else 0.05."""
    norms = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)
    undecayed = 0
    for prefix, module in network.named_modules():
        for leaf, weight in module.named_parameters(recurse=False):
            name = f"{prefix}.{leaf}"
            spared = isinstance(module, (*norms, nn.Embedding)) and name != DECAYED_LEVELS
            if isinstance(module, nn.Embedding) and spared:
                assert name.split(".")[-2] in UNDECAYED_EMBEDDINGS
            undecayed += spared
            if weight.requires_grad:
                yield name, weight, 0.0 if spared else 0.05
    assert undecayed > 50


def test_gradients__are_clipped_together_to_a_norm_of_a_hundredth(built: Built) -> None:
    from mmengine.optim import build_optim_wrapper

    settings = {**built.config["optim_wrapper"], "paramwise_cfg": None}
    network = nn.Linear(3, 2)
    wrapper = build_optim_wrapper(network, optim_wrapper(settings, "fp32"))
    network.weight.grad, network.bias.grad = torch.full((2, 3), 7.0), torch.full((2,), -3.0)
    wrapper._clip_grad()
    clipped = torch.cat([network.weight.grad.flatten(), network.bias.grad])
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-4)
    assert clipped[0] / clipped[-1] == pytest.approx(-7 / 3)


# mmengine's polynomial falls from the first step to the last: 89,999 intervals.
RATES = {
    "cityscapes": {step: 1e-4 * (1 - step / 89_999) ** 0.9 for step in (0, 1, 45_000, 89_998, 89_999)},
    "coco": {0: 1e-4, 327_777: 1e-4, 327_778: 1e-5, 355_091: 1e-5, 355_092: 1e-6, 368_749: 1e-6},
}


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_learning_rate__at_given_steps_is_the_papers(stage: str, built: Built) -> None:
    from mmengine.registry import PARAM_SCHEDULERS

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-4)
    iterations = getattr(built.options, stage).iterations
    (config,) = schedulers(built.config["param_scheduler"], iterations) or []
    schedule = PARAM_SCHEDULERS.build(config, default_args={"optimizer": optimizer})
    expected = RATES[built.name]
    found = {}
    for step in range(iterations):
        if step in expected:
            found[step] = optimizer.param_groups[0]["lr"]
        schedule.step()
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-15)
