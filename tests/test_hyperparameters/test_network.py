"""The paper's numbers in the network that a config builds: head, losses, matching, backbone."""

from operator import attrgetter

import pytest
from torch import nn

from tests.test_hyperparameters.experiments import NUM_CLASSES, Built


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("num_queries", 100),
        ("num_transformer_decoder_layers", 9),
        ("transformer_decoder.return_intermediate", True),
        ("loss_cls.loss_weight", 2.0),
        ("loss_mask.loss_weight", 5.0),
        ("loss_dice.loss_weight", 5.0),
        ("num_points", 12_544),
        ("oversample_ratio", 3.0),
        ("importance_sample_ratio", 0.75),
    ],
)
def test_network__has_the_papers_head(part: str, expected: object, built: Built) -> None:
    assert attrgetter(part)(built.network.panoptic_head) == expected


def test_network__weighs_classes_by_1_and_no_object_by_a_tenth(built: Built) -> None:
    classes = NUM_CLASSES[built.name]
    assert built.network.panoptic_head.class_weight == [1.0] * classes + [0.1]


def test_network__matches_queries_by_the_weights_of_its_losses(built: Built) -> None:
    costs = built.network.panoptic_head.assigner.match_costs
    weights = {type(cost).__name__: cost.weight for cost in costs}
    assert weights == {"ClassificationCost": 2.0, "CrossEntropyLossCost": 5.0, "DiceCost": 5.0}


def test_network__is_a_resnet_50_with_frozen_statistics(built: Built) -> None:
    backbone = built.network.backbone
    assert backbone.depth == 50
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.weight.requires_grad for norm in norms)
    assert not any(norm.training for norm in built.network.train().backbone.modules() if norm in norms)
