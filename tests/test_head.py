"""The head that matches whole batches, against mmdet's, which goes image by image."""

import pytest
import torch

from s4m_pipeline.config import load_config
from s4m_pipeline.registry import register_all
from tests.conftest import REPOSITORY

QUERIES, CLASSES, LAYERS, SIZE_PX = 15, 4, 4, 64


@pytest.fixture(scope="module")
def heads():
    """Ours and mmdet's, of the demo's network."""
    register_all()
    from mmdet.registry import MODELS

    from s4m_pipeline.engine.parts import model_config

    parts, _ = load_config(REPOSITORY / "configs/demo/demo.py")
    config = model_config(parts["model"], CLASSES)
    head = {**config["panoptic_head"], "train_cfg": config["train_cfg"], "test_cfg": config["test_cfg"]}
    return MODELS.build(head), MODELS.build({**head, "type": "Mask2FormerHead"})


def batch(counts, seed=0):
    """What the decoder says, as leaves of a graph, and the objects of images that have `counts` of them."""
    from mmengine.structures import InstanceData

    random = torch.Generator().manual_seed(seed)
    images = len(counts)
    logits = torch.randn(LAYERS, images, QUERIES, CLASSES + 1, generator=random).requires_grad_()
    masks = (3 * torch.randn(LAYERS, images, QUERIES, 16, 16, generator=random)).requires_grad_()
    objects = [
        InstanceData(
            labels=torch.randint(CLASSES, (count,), generator=random),
            masks=torch.rand(count, SIZE_PX, SIZE_PX, generator=random) < 0.3,
        )
        for count in counts
    ]
    return logits, masks, objects


def losses_and_gradients(head, logits, masks, objects):
    torch.manual_seed(5)
    losses = head.loss_by_feat(logits, masks, objects, [{}] * len(objects))
    gradients = torch.autograd.grad(sum(losses.values()), [logits, masks])
    return losses, gradients


@pytest.mark.parametrize(
    "counts",
    [(3,), (4, 1, 6), (0, 5), (0, 0), (QUERIES + 5, 2)],
    ids=["one", "some", "none of two", "none", "too many"],
)
def test_losses__from_the_same_draws__are_those_of_mmdet(heads, counts):
    ours, theirs = heads
    for seed in range(3):
        logits, masks, objects = batch(counts, seed)
        losses, gradients = losses_and_gradients(ours, logits, masks, objects)
        as_mmdet_wants = [type(image)(labels=image.labels, masks=image.masks.long()) for image in objects]
        expected, expected_gradients = losses_and_gradients(theirs, logits, masks, as_mmdet_wants)
        assert set(losses) == set(expected) and len(losses) == 3 * LAYERS
        for name, value in expected.items():
            torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-6, msg=name)
        for gradient, wanted in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_losses__of_a_prediction_that_is_not_finite__are_not_finite_and_raise_nothing(heads, wrong):
    logits, masks, objects = batch((3, 2))
    for tensor in (logits, masks):
        spoilt = [each.detach().clone() for each in (logits, masks)]
        spoilt[0 if tensor is logits else 1][:, 0] = wrong
        losses = heads[0].loss_by_feat(*spoilt, objects, [{}, {}])
        assert not torch.isfinite(sum(losses.values()))


def test_loss__takes_mmdets_masks_as_well_as_tensors(heads):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    ours, _ = heads
    _, _, objects = batch((3, 2))
    features = [
        torch.randn(2, channels, 16 >> level, 16 >> level) for level, channels in enumerate((16, 32, 64, 128))
    ]
    meta = {"img_shape": (SIZE_PX, SIZE_PX), "batch_input_shape": (SIZE_PX, SIZE_PX)}
    told = []
    for dense in (True, False):
        samples = []
        for image in objects:
            masks = image.masks if dense else BitmapMasks(image.masks.byte().numpy(), SIZE_PX, SIZE_PX)
            sample = DetDataSample(metainfo=meta)
            sample.gt_instances = InstanceData(labels=image.labels, masks=masks)
            samples.append(sample)
        torch.manual_seed(0)
        told.append(ours.loss(features, samples))
    assert told[0].keys() == told[1].keys()
    assert all(torch.equal(value, told[1][name]) for name, value in told[0].items())


def test_head__of_other_costs__is_refused(heads):
    from mmdet.registry import MODELS

    from s4m_pipeline.engine.parts import model_config

    parts, _ = load_config(REPOSITORY / "configs/demo/demo.py")
    config = model_config(parts["model"], CLASSES)
    config["train_cfg"]["assigner"]["match_costs"].pop()
    head = {**config["panoptic_head"], "train_cfg": config["train_cfg"], "test_cfg": config["test_cfg"]}
    with pytest.raises(
        ValueError, match=r"match_costs must be .* not ClassificationCost, CrossEntropyLossCost"
    ):
        MODELS.build(head)
