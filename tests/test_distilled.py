"""The teacher with structural distillation, on a small network and the shipped SAM 2."""

import copy

import pytest
import torch

from s4m_pipeline.config.loading import load_config
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.sam import BatchedSam, load_sam
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def sam() -> BatchedSam:
    return BatchedSam(load_sam("nano").network)


@pytest.fixture(scope="module")
def build(sam):
    """A function that builds the demo's network with the same weights, supervised or distilled."""
    register_all()
    from mmdet.registry import MODELS

    from s4m_pipeline.models.distilled import DistilledMask2Former, MetaTeacher
    from s4m_pipeline.models.load import model_config

    config, _ = load_config(REPOSITORY / "configs/demo/demo.py")

    def make(**sd):
        model = model_config(config["model"], 2)
        if sd:
            model.update(type=DistilledMask2Former, meta_teacher=MetaTeacher(sam), **sd)
        torch.manual_seed(0)
        return MODELS.build(model)

    return make


SD = {"sd_weight": 1.0, "sd_points": 6, "sd_target": "decoder", "sd_loss": "structural"}


@pytest.fixture(scope="module")
def batch():
    """Inputs and samples of two images of different sizes, the second without objects."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randint(0, 256, size, generator=generator) for size in ((3, 96, 64), (3, 64, 96))]
    samples = []
    for image, count in zip(inputs, (2, 0), strict=True):
        masks = torch.zeros(count, *image.shape[1:], dtype=torch.uint8)
        for k in range(count):
            masks[k, 10 + 40 * k : 40 + 40 * k, 8:40] = 1
        boxes = torch.tensor([[8.0, 10 + 40 * k, 40, 40 + 40 * k] for k in range(count)]).reshape(-1, 4)
        sample = DetDataSample(metainfo={"img_shape": image.shape[1:], "ori_shape": image.shape[1:]})
        sample.gt_instances = InstanceData(
            labels=torch.arange(count), bboxes=boxes, masks=BitmapMasks(masks.numpy(), *image.shape[1:])
        )
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def losses_of(model, batch):
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    torch.manual_seed(3)
    return model.loss(data["inputs"], data["data_samples"])


def test_distilled__supervised_losses_are_those_of_the_plain_teacher(build, batch):
    plain, distilled = losses_of(build(), batch), losses_of(build(**SD), batch)
    assert set(distilled) - set(plain) == {"loss_sd", "sam_seconds"}
    for name, value in plain.items():
        assert torch.equal(value, distilled[name]), name


def test_distilled__pixel_decoder_runs_once_a_step(build, batch):
    model, runs = build(**SD), []
    model.panoptic_head.pixel_decoder.register_forward_hook(lambda *_: runs.append(1))
    losses_of(model, batch)
    assert len(runs) == 1


def test_distilled__gradient_reaches_backbone_and_pixel_decoder_but_not_sam(build, batch, sam):
    model = build(**SD)
    losses_of(model, batch)["loss_sd"].backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0
    assert model.panoptic_head.pixel_decoder.mask_feature.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in sam.network.parameters())


def test_distilled__weight_scales_the_loss(build, batch):
    once, thrice = (losses_of(build(**{**SD, "sd_weight": w}), batch)["loss_sd"] for w in (1.0, 3.0))
    torch.testing.assert_close(thrice, 3 * once)


def test_distilled__sam_is_neither_saved_nor_copied_with_the_network(build, sam):
    model = build(**SD)
    assert set(model.state_dict()) == set(build().state_dict())
    assert copy.deepcopy(model).meta_teacher.sam is sam


def test_distilled__sees_the_images_that_the_batch_was_made_of(build, batch):
    model = build(**SD)
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    sizes = [tuple(image.shape[1:]) for image in batch["inputs"]]
    for clean, image in zip(model._clean_images(data["inputs"], sizes), batch["inputs"], strict=True):
        torch.testing.assert_close(clean, image / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "variant",
    [{"sd_target": "encoder"}, {"sd_target": "encoder", "sd_loss": "feature"}],
    ids=["encoder, structural", "encoder, feature"],
)
def test_distilled__variants_of_the_ablation_train(build, batch, variant):
    model = build(**{**SD, **variant})
    loss = losses_of(model, batch)["loss_sd"]
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    assert model.backbone.conv1.weight.grad.abs().sum() > 0


def test_distilled__in_a_training_of_mixed_precision__sam_and_the_similarities_are_float32(
    build, batch, monkeypatch
):
    """The rows of SAM are those of a training in float32; the network's own are float32, too."""
    from s4m_pipeline.models import distilled

    compared, loss = [], distilled.structural_loss
    monkeypatch.setattr(distilled, "structural_loss", lambda *rows: compared.append(rows) or loss(*rows))
    losses_of(build(**SD), batch)
    model = build(**SD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, batch)
    losses["loss_sd"].backward()

    (_, expected), (own, found) = compared
    assert torch.equal(found, expected)
    assert own.dtype == torch.float32
    torch.testing.assert_close(own.amax(dim=-1), torch.ones(own.shape[:2]))  # each point's own token
    assert model.backbone.conv1.weight.grad.abs().sum() > 0
    assert model.panoptic_head.pixel_decoder.mask_feature.weight.grad.abs().sum() > 0


def test_distilled__feature_loss_in_a_training_of_mixed_precision__has_float32_features(build, batch):
    model = build(**{**SD, "sd_target": "encoder", "sd_loss": "feature"})
    projected = []
    model.sd_projection.register_forward_hook(lambda module, inputs, output: projected.append(output))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses_of(model, batch)["loss_sd"].backward()
    assert projected[0].dtype == torch.float32
    assert model.panoptic_head.pixel_decoder.mask_feature.weight.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def build_student(sam):
    """A function that builds the demo's network as a student with the same weights, distilled or not."""
    register_all()
    from mmdet.registry import MODELS

    from s4m_pipeline.config.student import ArpOptions, PhotometricOptions
    from s4m_pipeline.models.distilled import DistilledStudent, MetaTeacher
    from s4m_pipeline.models.load import model_config
    from s4m_pipeline.models.student import StudentMask2Former
    from s4m_pipeline.student.preprocessor import AugmentingPreprocessor

    config, _ = load_config(REPOSITORY / "configs/demo/demo.py")

    def make(**sd):
        model = model_config(config["model"], 2)
        model.update(type=StudentMask2Former, unlabeled_weight=2.0, unlabeled_background=0.1)
        model["backbone"]["norm_eval"] = True  # else the images of a batch change one another's features
        model["data_preprocessor"].update(
            type=AugmentingPreprocessor, arp=ArpOptions(), photometric=PhotometricOptions()
        )
        if sd:
            model.update(type=DistilledStudent, meta_teacher=MetaTeacher(sam), **sd)
        torch.manual_seed(0)
        return MODELS.build(model).train()

    return make


@pytest.fixture(scope="module")
def two_branches(batch):
    """The batch twice: as labeled and as pseudo-labeled images."""
    both = {"inputs": [], "data_samples": []}
    for branch in ("labeled", "unlabeled"):
        part = copy.deepcopy(batch)
        for sample in part["data_samples"]:
            sample.set_metainfo({"branch": branch})
        both = {name: both[name] + part[name] for name in both}
    return both


def test_distilled_student__other_losses_are_those_of_the_student(build_student, two_branches):
    plain, distilled = losses_of(build_student(), two_branches), losses_of(build_student(**SD), two_branches)
    assert set(distilled) - set(plain) == {"loss_sd", "sam_seconds"}
    for name, value in plain.items():
        assert torch.equal(value, distilled[name]), name


def test_distilled_student__distils_labeled_images_alone(build_student, two_branches):
    """Another unlabeled image leaves the loss as it is; another labeled one does not."""
    model = build_student(**SD)
    data = model.data_preprocessor(copy.deepcopy(two_branches), training=True)
    found = []
    for changed in (None, 2, 0):
        inputs = data["inputs"].clone()
        if changed is not None:
            inputs[changed] = inputs[changed].flip(-1)
        torch.manual_seed(3)
        found.append(model.loss(inputs, data["data_samples"])["loss_sd"].detach())
    torch.testing.assert_close(found[1], found[0])
    assert abs(float(found[2] - found[0])) > 1e-4


def test_distilled_student__loss_is_the_teachers_on_the_labeled_images(
    build_student, build, batch, two_branches
):
    variant = {**SD, "sd_target": "encoder", "sd_loss": "feature"}  # the one without random points
    student, teacher = build_student(**variant), build(**variant)
    teacher.load_state_dict(student.state_dict())
    teacher.backbone.norm_eval = True
    teacher.train()
    found, expected = losses_of(student, two_branches), losses_of(teacher, batch)
    torch.testing.assert_close(found["loss_sd"], expected["loss_sd"])
