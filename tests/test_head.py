"""The head that matches whole batches, against mmdet's, which goes image by image."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict

from s4m_pipeline.config.loading import load_config
from s4m_pipeline.models.registry import register_all
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.usefixtures("points_by_purpose")
QUERIES, CLASSES, LAYERS, SIZE_PX = 15, 4, 4, 64


@pytest.fixture(scope="module")
def heads():
    """Ours and mmdet's, of the demo's network."""
    register_all()
    from mmdet.registry import MODELS

    from s4m_pipeline.models.load import model_config

    config, _ = load_config(REPOSITORY / "configs/demo/demo.py")
    model = model_config(config["model"], CLASSES)
    head = {**model["panoptic_head"], "train_cfg": model["train_cfg"], "test_cfg": model["test_cfg"]}
    mmdets = copy.deepcopy(ConfigDict(head))
    mmdets.type, mmdets.pixel_decoder.type = "Mask2FormerHead", "MSDeformAttnPixelDecoder"
    return MODELS.build(head), MODELS.build(mmdets)


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


def test_forward__of_mmdets_weights__gives_mmdets_logits_and_gradients(heads):
    """Up to rounding: attention is summed in a different order."""
    ours, theirs = heads
    theirs.init_weights()
    with torch.no_grad():  # else all offsets, and all but one weight of a level, would be equal
        for parameter in theirs.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    ours.load_state_dict(theirs.state_dict())
    sizes = enumerate((16, 32, 64, 128))
    told = []
    features = [torch.randn(2, channels, 24 >> level, 16 >> level) for level, channels in sizes]
    for head in (ours, theirs):
        head.zero_grad()
        classes, masks = head.eval()([level.clone() for level in features], [None, None])
        (sum(each.square().mean() for each in (*classes, *masks))).backward()
        gradients = [parameter.grad for parameter in head.parameters() if parameter.grad is not None]
        told.append([*classes, *masks, *gradients])
    assert len(told[0]) == len(told[1])
    for found, expected in zip(*told, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


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
def test_losses__at_the_same_points__are_those_of_mmdet(heads, counts):
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_losses__of_half_precision_logits__are_those_of_the_same_numbers_in_float32(heads, dtype):
    head = heads[0]
    logits, masks, objects = batch((4, 6))
    rounded = [tensor.detach().to(dtype) for tensor in (logits, masks)]
    points, head.num_points = head.num_points, 12_544  # the paper's: times 10 masks more than half can hold
    try:
        told = []
        for kind in (dtype, torch.float32):
            torch.manual_seed(5)
            told.append(head.loss_by_feat(*(tensor.to(kind) for tensor in rounded), objects, [{}, {}]))
    finally:
        head.num_points = points
    for name, expected in told[1].items():
        torch.testing.assert_close(told[0][name], expected, rtol=1e-5, atol=1e-6, msg=name)


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

    from s4m_pipeline.models.load import model_config

    config, _ = load_config(REPOSITORY / "configs/demo/demo.py")
    model = model_config(config["model"], CLASSES)
    model["train_cfg"]["assigner"]["match_costs"].pop()
    head = {**model["panoptic_head"], "train_cfg": model["train_cfg"], "test_cfg": model["test_cfg"]}
    with pytest.raises(
        ValueError, match=r"match_costs must be .* not ClassificationCost, CrossEntropyLossCost"
    ):
        MODELS.build(head)


# Ignored regions.

RECTANGLES = {"inside": (1, 6), "mostly inside": (2, 10), "mostly outside": (6, 14), "outside": (9, 14)}
"""Columns of predicted masks of 16 x 16, of which the left half is ignored."""


def clear_cut(logits, masks):
    """The same logits with masks that are rectangles, at any rows, or empty."""
    random = torch.Generator().manual_seed(7)
    spans = [*RECTANGLES.values(), (0, 0)]
    with torch.no_grad():
        for mask in masks.flatten(0, 2):
            (left, right), top = (
                spans[torch.randint(5, (), generator=random)],
                torch.randint(8, (), generator=random),
            )
            mask[:] = -3
            mask[top : top + 8, left:right] = 3
    return logits, masks


def left_half(ignoring):
    region = torch.zeros(SIZE_PX, SIZE_PX, dtype=torch.bool)
    region[:, : SIZE_PX // 2] = True
    return [region if ignores else None for ignores in ignoring]


def with_regions(head, logits, masks, objects, ignored):
    torch.manual_seed(5)
    losses = head.loss_by_feat(logits, masks, objects, [{}] * len(objects), ignored)
    return losses, torch.autograd.grad(sum(losses.values()), [logits, masks])


def test_ignored__nothing__is_the_plain_loss_to_the_bit(heads):
    ours, _ = heads
    logits, masks, objects = batch((4, 0, 3))
    plain, gradients = losses_and_gradients(ours, logits, masks, objects)
    nothing = torch.zeros(SIZE_PX, SIZE_PX, dtype=torch.bool)
    for ignored in ([None] * 3, [nothing, None, nothing]):
        found, found_gradients = with_regions(ours, logits, masks, objects, ignored)
        assert all(torch.equal(found[name], value) for name, value in plain.items())
        assert all(map(torch.equal, found_gradients, gradients))


@pytest.mark.parametrize("ignoring", [(True, False, True), (True, True, True)])
def test_ignored__class_losses_are_those_of_a_slow_reference_and_the_others_plain(
    heads, ignoring, monkeypatch
):
    """mmdet matches, image by image; each query's class loss is then added, unless most pixels of its
    predicted mask are ignored and it is in no pair."""
    ours, theirs = heads
    logits, masks, objects = batch((4, 2, 3))
    logits, masks = clear_cut(logits, masks)
    assigned = []
    usual = theirs._get_targets_single

    def recorded(*arguments):
        targets = usual(*arguments)
        assigned.append((targets[0], set(targets[5].tolist())))  # classes of queries, and those in no pair
        return targets

    monkeypatch.setattr(theirs, "_get_targets_single", recorded)
    as_mmdet_wants = [type(image)(labels=image.labels, masks=image.masks.long()) for image in objects]
    plain, _ = losses_and_gradients(theirs, logits, masks, as_mmdet_wants)
    found, (class_gradient, mask_gradient) = with_regions(ours, logits, masks, objects, left_half(ignoring))

    num_ignored = 0
    for layer in range(LAYERS):
        total = weight = 0.0
        for image, ignores in enumerate(ignoring):
            targets, unmatched = assigned[layer * len(objects) + image]
            for query, target in enumerate(targets.tolist()):
                predicted = masks[layer, image, query] > 0
                if ignores and query in unmatched and predicted[:, :8].sum() > 0.5 * predicted.sum():
                    assert not class_gradient[layer, image, query].any()
                    assert not mask_gradient[layer, image, query].any()
                    num_ignored += 1
                    continue
                assert class_gradient[layer, image, query].any()
                class_weight = ours.class_weight[target]
                total = total - class_weight * logits[layer, image, query].log_softmax(-1)[target]
                weight += class_weight
        prefix = "" if layer == LAYERS - 1 else f"d{layer}."
        torch.testing.assert_close(found[f"{prefix}loss_cls"], ours.loss_cls.loss_weight * total / weight)
        for name in ("loss_mask", "loss_dice"):
            torch.testing.assert_close(found[f"{prefix}{name}"], plain[f"{prefix}{name}"])
    assert num_ignored > 20


def test_ignored__image_without_objects_and_everything_ignored__has_no_class_loss(heads):
    ours, _ = heads
    logits, masks, objects = batch((0,))
    with torch.no_grad():
        masks.abs_()
    everything = torch.ones(SIZE_PX, SIZE_PX, dtype=torch.bool)
    losses, gradients = with_regions(ours, logits, masks, objects, [everything])
    assert sum(losses.values()) == 0
    assert not any(gradient.any() for gradient in gradients)
