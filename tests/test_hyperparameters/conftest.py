"""Both benchmarks' experiments, built once."""

import pytest
import torch

from s4m_pipeline.engine import parts as build
from s4m_pipeline.options.experiment import load_experiment
from s4m_pipeline.registry import register_all
from tests.test_hyperparameters.experiments import BENCHMARKS, NUM_CLASSES, Built


@pytest.fixture(scope="session", params=BENCHMARKS)
def built(request: pytest.FixtureRequest) -> Built:
    """The experiment with 10 % of labels; those with other shares differ in their split alone."""
    register_all()

    from mmdet.registry import MODELS

    name = request.param
    options, parts = load_experiment(BENCHMARKS[name].config(10, smoke=False), [])
    with torch.device("meta"):
        network = MODELS.build(build.model_config(parts["model"], NUM_CLASSES[name]))
    return Built(name, options, parts, network)
