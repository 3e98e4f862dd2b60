"""Laws of the student's loss: branches that do not mix, and pseudo-labels that may be absent."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from s4m_pipeline.config.loading import load_config
from s4m_pipeline.models.registry import register_all
from tests.conftest import REPOSITORY

Losses = dict[str, Tensor]

pytestmark = pytest.mark.usefixtures("points_by_purpose")


@pytest.fixture(scope="module")
def build() -> Callable[..., Any]:
    """A function that builds the demo's network as a student, always with the same weights."""
    register_all()
    from mmdet.registry import MODELS

    from s4m_pipeline.models.load import model_config
    from s4m_pipeline.models.student import StudentMask2Former

    config, _ = load_config(REPOSITORY / "configs/demo/demo.py")

    def make(**student: Any) -> Any:
        model = model_config(config["model"], 2)
        model["backbone"]["norm_eval"] = True  # else the images of a batch change one another's features
        if student:
            model.update(type=StudentMask2Former, **{"unlabeled_background": 0.1, **student})
        torch.manual_seed(0)
        return MODELS.build(model).train()

    return make


def sample(branch: str, count: int, seed: int) -> Any:
    """`count` rectangles of random classes in an image of 64 x 64 pixels."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 64, 64, dtype=torch.bool)
    for mask in masks:
        top, left = torch.randint(0, 40, (2,), generator=generator).tolist()
        mask[top : top + 20, left : left + 16] = True
    labels = torch.randint(0, 2, (count,), generator=generator)
    meta = {"img_shape": (64, 64), "ori_shape": (64, 64), "batch_input_shape": (64, 64), "branch": branch}
    return DetDataSample(metainfo=meta, gt_instances=InstanceData(labels=labels, masks=masks))


def losses(model: Any, samples: list[Any], images: Tensor) -> Losses:
    torch.manual_seed(1)  # points are sampled
    return model.loss(images, samples)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def batch(*pseudo_counts: int) -> list[Any]:
    labeled = [sample("labeled", 2, 10), sample("labeled", 1, 11)]
    return labeled + [sample("unlabeled", count, 20 + i) for i, count in enumerate(pseudo_counts)]


def test_student__pseudo_labels_leave_the_labeled_losses_alone(build: Any, images: Tensor) -> None:
    model = build(unlabeled_weight=2.0)
    one, other = losses(model, batch(2, 3), images), losses(model, batch(0, 1), images)
    labeled = [name for name in one if name.startswith(("loss", "d"))]
    assert len(labeled) == 3 * 4  # three losses of four layers' predictions
    for name in labeled:
        assert torch.equal(one[name], other[name]), name


def test_student__labeled_losses_equal_those_of_the_supervised_network(build: Any, images: Tensor) -> None:
    from mmdet.structures.mask import BitmapMasks

    student = losses(build(unlabeled_weight=2.0), batch(2, 3), images)
    labeled = batch()
    for item in labeled:
        item.gt_instances.masks = BitmapMasks(item.gt_instances.masks.numpy().astype("uint8"), 64, 64)
    supervised = losses(build(), labeled, images[:2])
    for name, value in supervised.items():
        torch.testing.assert_close(value, student[name])


def test_student__unlabeled_losses_equal_labeled_ones_on_the_same_data_times_the_weight(
    build: Any, images: Tensor
) -> None:
    model = build(unlabeled_weight=2.0)
    twice = torch.cat([images[:2], images[:2]])
    model.panoptic_head.num_points = 100_000  # so many that chance hardly matters
    samples = [sample(branch, 2, 30 + i) for branch in ("labeled", "unlabeled") for i in range(2)]
    found = losses(model, samples, twice)
    for name in ("loss_cls", "loss_mask", "loss_dice", "d0.loss_cls", "d2.loss_dice"):
        torch.testing.assert_close(found[f"unsup_{name}"], 2 * found[name], rtol=0.02, atol=0.0)


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_student__without_pseudo_labels_the_gradient_is_that_of_the_labeled_branch(
    weight: float, build: Any, images: Tensor
) -> None:
    model = build(unlabeled_weight=weight)
    found = losses(model, batch(0, 0), images)
    unsupervised = sum(value for name, value in found.items() if name.startswith("unsup_"))
    assert float(unsupervised) == 0
    assert float(found["pseudo_instances"]) == 0
    gradient = torch.autograd.grad(unsupervised, list(model.parameters()), allow_unused=True)
    assert all(part is None or not part.any() for part in gradient)


def test_student__an_image_without_pseudo_labels_teaches_nothing(build: Any, images: Tensor) -> None:
    model = build(unlabeled_weight=1.0)
    both, one = losses(model, batch(2, 0), images), losses(model, batch(2), images[:3])
    for name, value in one.items():
        if name != "pseudo_instances":
            torch.testing.assert_close(both[name], value)


def test_student__background_weight_0_does_not_push_unmatched_queries(build: Any, images: Tensor) -> None:
    """With one pseudo-label, the class loss's gradient then reaches the logits of one query only."""
    pushed = {}
    for background in (0.0, 0.1):
        model = build(unlabeled_weight=1.0, unlabeled_background=background)
        logits: list[Tensor] = []
        model.panoptic_head.cls_embed.register_forward_hook(lambda m, i, out, kept=logits: kept.append(out))
        loss = losses(model, batch(1), images[:3])["unsup_loss_cls"]
        (gradient,) = torch.autograd.grad(loss, logits[-1])
        pushed[background] = int(gradient[2].abs().sum(-1).gt(0).sum())
        assert model.panoptic_head.class_weight == [1.0, 1.0, 0.1]  # put back
    assert pushed == {0.0: 1, 0.1: 15}


def test_student__ignored_region__changes_the_class_losses_of_its_image_alone(
    build: Any, images: Tensor
) -> None:
    model = build(unlabeled_weight=1.0)
    plain, samples = losses(model, batch(2, 1), images), batch(2, 1)
    samples[3].ignored = torch.ones(64, 64, dtype=torch.bool)
    found = losses(model, samples, images)
    changed = {name for name, value in plain.items() if not torch.equal(value, found[name])}
    assert changed and changed <= {name for name in plain if "unsup" in name and name.endswith("loss_cls")}
    samples[0].ignored = samples[2].ignored = torch.zeros(64, 64, dtype=torch.bool)
    again = losses(model, samples, images)
    assert all(torch.equal(value, again[name]) for name, value in found.items())
