"""Networks of other projects, converted: the same outputs, every tensor used, what does not fit is named."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample
from safetensors.torch import load_file
from torch import Tensor, nn

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.config.weight_files import WeightFile
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.models.checkpoint import Weights, read_weights
from s4m_pipeline.models.conversion.detectron2 import from_detectron2
from s4m_pipeline.models.fitting import initialize, load_weights, require_fit, settings
from s4m_pipeline.models.load import model_config
from s4m_pipeline.models.registry import register_all
from tests.published import as_detectron2

ROOT = Path(__file__).parents[1]
WIDTH, HEADS, QUERIES, CLASSES = 32, 4, 5, ("person", "rider", "car")
RESNET = {"stem_channels": 8, "base_channels": 4}
SWIN = {"embed_dims": 12, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 3, 4], "window_size": 7}
D2_HEAD, D2_DECODER = "sem_seg_head.predictor.", "sem_seg_head.pixel_decoder."
DECODER, LAYER = "panoptic_head.pixel_decoder.", "panoptic_head.transformer_decoder.layers."
CHANNELS = {"resnet": [16, 32, 64, 128], "swin": [12, 24, 48, 96]}


def network(kind: str = "resnet", classes: int = len(CLASSES), queries: int = QUERIES) -> nn.Module:
    """A small Mask2Former of ours; its sizes are all different."""
    register_all()

    from mmdet.registry import MODELS

    _, config = load_experiment(
        ROOT / "configs/cityscapes" / ("cityscapes.py" if kind == "resnet" else "cityscapes_swin_t.py"), []
    )
    model = config["model"]
    model["backbone"].update(
        RESNET if kind == "resnet" else {**SWIN, "init_cfg": None, "drop_path_rate": 0.0}
    )
    head = model["panoptic_head"]
    head.update(in_channels=CHANNELS[kind], feat_channels=WIDTH, out_channels=WIDTH, num_queries=queries)
    encoder, decoder = head["pixel_decoder"]["encoder"], head["transformer_decoder"]
    encoder["num_layers"], decoder["num_layers"] = 2, 3
    for layer, parts, width in (
        (encoder["layer_cfg"], ("self_attn_cfg",), 48),
        (decoder["layer_cfg"], ("self_attn_cfg", "cross_attn_cfg"), 56),
    ):
        for part in parts:
            layer[part] = {**layer[part], "embed_dims": WIDTH, "num_heads": HEADS}
        layer["ffn_cfg"].update(embed_dims=WIDTH, feedforward_channels=width)
    for part in (head, head["pixel_decoder"]):
        part["positional_encoding"]["num_feats"] = WIDTH // 2
    torch.manual_seed(0)
    return MODELS.build(model_config(model, classes)).eval()


def randomized(model: nn.Module) -> nn.Module:
    """The same with random values everywhere, also where networks begin with zeros and ones."""
    generator = torch.Generator().manual_seed(1)
    for value in model.state_dict().values():
        if value.is_floating_point():
            positive = 0.5 if value.ndim == 1 else 0.0  # variances, and scales of norms
            value.copy_((torch.rand(value.shape, generator=generator) - 0.5) * 0.4 + positive)
    return model.eval()


@torch.inference_mode()
def outputs(model: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of classes (1, Q, C + 1) and of masks (1, Q, H / 4, W / 4)."""
    size = tuple(image.shape[-2:])
    sample = DetDataSample(metainfo={"img_shape": size, "batch_input_shape": size})
    classes, masks = model.panoptic_head(model.extract_feat(image), [sample])
    return classes[-1], masks[-1]


@pytest.fixture(scope="module", params=["resnet", "swin"])
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    """A random network of `transformers`, and the folder that it was saved to."""
    transformers = pytest.importorskip("transformers", reason="needs the package transformers")
    if request.param == "resnet":
        backbone = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=CHANNELS["resnet"], depths=[3, 4, 6, 3], layer_type="bottleneck",
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )  # fmt: skip
    else:
        backbone = transformers.SwinConfig(
            embed_dim=12, depths=SWIN["depths"], num_heads=SWIN["num_heads"], window_size=7,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, hidden_dim=WIDTH, feature_size=WIDTH, mask_feature_size=WIDTH,
        num_attention_heads=HEADS, num_queries=QUERIES, encoder_layers=2, decoder_layers=4,
        encoder_feedforward_dim=48, dim_feedforward=56, dropout=0.0, id2label=dict(enumerate(CLASSES)),
    )  # fmt: skip
    model = randomized(transformers.Mask2FormerForUniversalSegmentation(config))
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return request.param, folder, model


def test_hugging_face__random_network__gives_the_same_logits_with_every_tensor_used_once(theirs):
    kind, folder, model = theirs
    weights = read_weights(folder / "model.safetensors")
    ours = network(kind)
    load_weights(ours, weights)  # refuses tensors that are unknown, missing or of another shape
    assert weights.classes == CLASSES
    given = sum(
        value.numel()
        for name, value in load_file(folder / "model.safetensors").items()
        if name != "criterion.empty_weight" and "swin.layernorm" not in name
    )
    assert sum(value.numel() for value in weights.tensors.values()) == given
    image = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = model(pixel_values=image)
    classes, masks = outputs(ours, image)
    torch.testing.assert_close(classes, expected.class_queries_logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(masks, expected.masks_queries_logits, atol=1e-4, rtol=0)
    assert masks.std() > 0.1


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("backbone.stem.conv1.norm.weight", "backbone.bn1.weight"),
        ("backbone.res2.0.shortcut.norm.running_mean", "backbone.layer1.0.downsample.1.running_mean"),
        ("backbone.res5.2.conv3.norm.bias", "backbone.layer4.2.bn3.bias"),
        (f"{D2_DECODER}transformer.level_embed", f"{DECODER}level_encoding.weight"),
        (f"{D2_DECODER}transformer.encoder.layers.5.norm1.bias", f"{DECODER}encoder.layers.5.norms.0.bias"),
        (f"{D2_DECODER}transformer.encoder.layers.5.norm2.bias", f"{DECODER}encoder.layers.5.norms.1.bias"),
        (f"{D2_DECODER}adapter_1.norm.weight", f"{DECODER}lateral_convs.0.gn.weight"),
        (f"{D2_DECODER}layer_1.weight", f"{DECODER}output_convs.0.conv.weight"),
        ("sem_seg_head.mask_features.bias", f"{DECODER}mask_feature.bias"),
        (f"{D2_HEAD}transformer_cross_attention_layers.8.norm.bias", f"{LAYER}8.norms.0.bias"),
        (f"{D2_HEAD}transformer_self_attention_layers.8.norm.bias", f"{LAYER}8.norms.1.bias"),
        (f"{D2_HEAD}transformer_ffn_layers.8.norm.bias", f"{LAYER}8.norms.2.bias"),
        (f"{D2_HEAD}query_embed.weight", "panoptic_head.query_embed.weight"),
        (f"{D2_HEAD}static_query.weight", "panoptic_head.query_feat.weight"),
        (f"{D2_HEAD}level_embed.weight", "panoptic_head.level_embed.weight"),
        (f"{D2_HEAD}mask_embed.layers.2.bias", "panoptic_head.mask_embed.4.bias"),
        ("backbone.layers.2.blocks.5.attn.qkv.bias", "backbone.stages.2.blocks.5.attn.w_msa.qkv.bias"),
        ("backbone.layers.2.blocks.5.mlp.fc2.bias", "backbone.stages.2.blocks.5.ffn.layers.1.bias"),
        ("backbone.norm3.weight", "backbone.norm3.weight"),
    ],
)  # fmt: skip
def test_detectron2__names_that_shapes_do_not_tell_apart(there, here):
    assert list(from_detectron2({there: torch.zeros(4)})) == [here]


def test_detectron2__swin__is_converted_as_mmdet_converts_it():
    from mmdet.models.backbones.swin import swin_converter

    generator = torch.Generator().manual_seed(0)
    shapes = {"attn.qkv.weight": (12, 4), "mlp.fc1.bias": (8,), "mlp.fc2.weight": (4, 8), "norm1.bias": (4,)}
    names = {f"layers.1.blocks.0.{name}": shape for name, shape in shapes.items()}
    names |= {"patch_embed.proj.weight": (4, 3, 4, 4), "patch_embed.norm.bias": (4,)}
    names |= {"layers.1.downsample.reduction.weight": (8, 16), "layers.1.downsample.norm.bias": (16,)}
    tensors = {name: torch.rand(shape, generator=generator) for name, shape in names.items()}
    found = from_detectron2({f"backbone.{name}": value for name, value in tensors.items()})
    expected = swin_converter(tensors)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_renamed__two_tensors_for_one_name__are_refused():
    names = (f"{D2_HEAD}static_query.weight", f"{D2_HEAD}query_feat.weight")
    with pytest.raises(ValueError, match="a second tensor for panoptic_head"):
        from_detectron2(dict.fromkeys(names, torch.zeros(1)))


def test_detectron2__file_with_teacher_and_student__gives_the_network_that_is_named(tmp_path):
    student, teacher = randomized(network()).state_dict(), network().state_dict()
    both = {f"modelStudent.{name}": value for name, value in as_detectron2(student).items()}
    both |= {f"modelTeacher.{name}": value for name, value in as_detectron2(teacher).items()}
    both["modelStudent.criterion.empty_weight"] = torch.ones(4)
    path = tmp_path / "released.pth"
    torch.save({"model": OrderedDict(both), "trainer": {"optimizer": {"state": {}}}, "iteration": 3}, path)
    for name, expected in (("student", student), ("teacher", teacher)):
        found = read_weights(f"{path}#{name}")
        load_weights(network(), found)
        assert all(torch.equal(found.tensors[key], value) for key, value in expected.items())
        assert found.file.digest().endswith(f"#{name}")
    with pytest.raises(UserError, match=rf"holds two networks.*\n.*{path}#teacher or {path}#student"):
        read_weights(path)
    with pytest.raises(UserError, match="holds no network 'ema'"):
        read_weights(f"{path}#ema")


def test_detectron2__pickle_of_arrays_without_batch_counts__is_read_and_predicts_alike(tmp_path):
    model = randomized(network(classes=8))
    arrays = {name: value.numpy() for name, value in as_detectron2(model.state_dict()).items()}
    frozen = {name: value for name, value in arrays.items() if not name.endswith("num_batches_tracked")}
    for protocol in (2, 4, 5):
        path = tmp_path / f"model_{protocol}.pkl"
        path.write_bytes(pickle.dumps({"model": frozen, "__author__": "somebody"}, protocol))
        weights = read_weights(path)
        assert weights.classes is not None and weights.classes[:3] == CLASSES  # Cityscapes has 8 classes
        ours = network(classes=8)
        load_weights(ours, weights)
        image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
        assert all(map(torch.equal, outputs(ours, image), outputs(model, image)))


def published(model: nn.Module, classes: tuple[str, ...] | None) -> Weights:
    return Weights(WeightFile(path=Path("given")), model.state_dict(), classes, published=True)


def test_initialize__published_weights_of_other_classes__take_the_rows_of_the_shared_ones():
    given, ours = randomized(network()), network(classes=2)
    weights, classes = published(given, CLASSES), ("car", "tree")
    before = ours.panoptic_head.cls_embed.weight[1].clone()
    require_fit(ours, weights, classes)
    said = initialize(ours, weights, classes)
    assert "its class layer for car and no object; 1 classes start at random" in said
    layer, source = ours.panoptic_head.cls_embed, given.panoptic_head.cls_embed
    assert torch.equal(layer.weight[[0, 2]], source.weight[[2, 3]])
    assert torch.equal(layer.bias[[0, 2]], source.bias[[2, 3]])
    assert torch.equal(layer.weight[1], before)
    assert torch.equal(ours.panoptic_head.query_feat.weight, given.panoptic_head.query_feat.weight)


@pytest.mark.parametrize("kind", ["resnet", "swin"])
def test_settings__of_a_network__are_those_of_its_config(kind):
    found = settings(network(kind).state_dict())
    head = "model.panoptic_head."
    assert found[f"{head}num_queries"] == QUERIES
    assert found[f"{head}in_channels"] == CHANNELS[kind]
    assert (found[f"{head}feat_channels"], found[f"{head}out_channels"]) == (WIDTH, WIDTH)
    assert found[f"{head}pixel_decoder.encoder.num_layers"] == 2
    assert found[f"{head}transformer_decoder.num_layers"] == 3
    assert found[f"{head}transformer_decoder.layer_cfg.ffn_cfg.feedforward_channels"] == 56
    backbone = {"depth": 50, "base_channels": 4} if kind == "resnet" else SWIN
    assert {key: found[f"model.backbone.{key}"] for key in backbone} == backbone


def test_load_weights__network_of_other_sizes__is_refused_with_settings_and_parts_that_fit():
    message = r"(?s)what fits: backbone 318 of 318, .*it would fit:\n  model.panoptic_head.num_queries=4\n"
    with pytest.raises(UserError, match=message):
        load_weights(network(), published(network(queries=4), CLASSES))
    with pytest.raises(
        UserError, match=r"model.backbone.type=SwinTransformer\n  model.backbone.embed_dims=12"
    ):
        require_fit(network(), published(network("swin"), CLASSES), CLASSES)
    other = {**network().backbone.state_dict(prefix="backbone."), "roi_head.mask_head.bias": torch.zeros(2)}
    mask_rcnn = Weights(WeightFile(path=Path("given")), other, CLASSES, published=True)
    message = r"(?s)panoptic_head 0 of .*roi_head.mask_head.bias: not in .*--allow-partial"
    with pytest.raises(UserError, match=message):
        require_fit(network(), mask_rcnn, CLASSES)
