"""The EMA model in few operations, against mmengine's."""

import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn

from s4m_pipeline.train.optim import FewOperationsEma


def test_few_operations_ema__any_updates__is_mmengines_to_the_last_bit() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(5, 2))
    averages = [kind(network, momentum=0.01) for kind in (FewOperationsEma, ExponentialMovingAverage)]
    for _ in range(4):
        for tensor in network.state_dict().values():
            tensor += torch.randn(tensor.shape).to(tensor.dtype)
        for average in averages:
            average.update_parameters(network)
        ours, theirs = (average.state_dict() for average in averages)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
