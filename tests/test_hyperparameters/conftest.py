"""Both benchmarks' experiments, built once."""

import pytest
import torch

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.models.load import build_network
from s4m_pipeline.models.registry import register_all
from tests.test_hyperparameters.experiments import BENCHMARKS, NUM_CLASSES, Built


@pytest.fixture(scope="session", params=BENCHMARKS)
def built(request: pytest.FixtureRequest) -> Built:
    """The experiment with 10 % of labels; those with other shares differ in their split alone."""
    register_all()
    name = request.param
    options, config = load_experiment(BENCHMARKS[name].config(), [])
    with torch.device("meta"):
        network = build_network(config, NUM_CLASSES[name])
    return Built(name, options, config, network)
