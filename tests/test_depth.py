"""Depth maps beside the images: they move with them, add nothing at first, and are asked for when missing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from numpy.typing import NDArray
from PIL import Image

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.config.student import ArpOptions, PhotometricOptions
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.depth_files import depth_file, read_depth, require_depth
from s4m_pipeline.data.scenes.crowds import CROWD_FAMILIES, SEED_SPACE, draw_crowds
from s4m_pipeline.data.scenes.writer import Subset, write_scenes
from s4m_pipeline.models.checkpoint import Weights, read_weights
from s4m_pipeline.models.fitting import initialize, require_fit
from s4m_pipeline.models.load import build_network
from s4m_pipeline.models.registry import register_all
from tests.conftest import REPOSITORY

CROWDS = REPOSITORY / "configs/crowds/crowds.py"
CLASSES = tuple(CROWD_FAMILIES)


@pytest.fixture(scope="module")
def crowds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few crowds with their depth maps; tests must not write into it."""
    root = tmp_path_factory.mktemp("crowds")
    subsets = (Subset("train", 0, 2), Subset("val", 1, 2), Subset("unlabeled", 2, 4))
    write_scenes(root, subsets, CROWD_FAMILIES, (SEED_SPACE, 0), draw=draw_crowds)
    return root


def gray_png(path: Path, values: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image of 40 x 48 pixels whose red channel is what the network should see of its depth map."""
    red = np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)
    red[0, :2] = 0, 255
    gray_png(tmp_path / "depth/train/a.png", red.astype(np.uint16) * 200 + 7)
    gray_png(tmp_path / "train/a.png", np.dstack([red, 255 - red, red // 2]))
    return tmp_path / "train/a.png"


def loaded(photo: Path, *transforms: Mapping[str, Any]) -> torch.Tensor:
    """The network's input of an image, after these transforms of a config's training pipeline."""
    register_all()
    _, config = load_experiment(CROWDS, ["data.depth=depth"])
    pipeline = [t for t in config["train_pipeline"] if "Load" in t["type"] and "Instances" not in t["type"]]
    pipeline += [*transforms, *config["train_pipeline"][-2:]]
    packed: torch.Tensor = Compose(pipeline)({"img_path": str(photo), "img_id": 1})["inputs"]
    return packed


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
def test_depth__flipped_and_cropped_with_its_image__shows_the_same_pixels(photo, direction):
    crop = {"type": "RandomCrop", "crop_type": "absolute", "crop_size": (24, 20)}
    inputs = loaded(photo, {"type": "RandomFlip", "prob": 1.0, "direction": direction}, crop)
    assert inputs.shape == (4, 20, 24)
    assert torch.equal(inputs[3], inputs[0])


def test_depth__resized_with_its_image__keeps_the_values_of_the_map(photo):
    inputs = loaded(photo, {"type": "Resize", "scale": (96, 80), "keep_ratio": True})
    assert inputs.shape == (4, 80, 96)
    assert torch.equal(inputs[3, ::2, ::2], loaded(photo)[0])


def test_depth__photometric_distortion_of_the_image__leaves_it_alone(photo):
    inputs = loaded(photo, {"type": "PhotoMetricDistortion"})
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs[3], loaded(photo)[3].float())


def test_depth__missing_or_not_fitting__says_what_is_expected_where(photo):
    depth = photo.parents[1] / "depth/train/a.png"
    gray_png(depth, np.zeros((40, 40), np.uint16))
    with pytest.raises(UserError, match=r"depth/train/a.png: is 40 x 40 pixels, its image 48 x 40"):
        loaded(photo)
    gray_png(depth, np.zeros((40, 48, 3), np.uint8))
    with pytest.raises(UserError, match="pixels of kind RGB, expected a grayscale image"):
        loaded(photo)
    depth.unlink()
    with pytest.raises(UserError, match=r"depth/train/a.png is missing.\nExpected a grayscale PNG"):
        loaded(photo)
    with pytest.raises(UserError, match="no folder nowhere of depth maps beside"):
        depth_file(photo, "nowhere")


def test_depth__flat_map__is_zero(photo):
    gray_png(photo.parents[1] / "depth/train/a.png", np.full((40, 48), 900, np.uint16))
    assert not read_depth(photo, "depth", (40, 48)).any()


def test_require_depth__counts_what_is_missing(crowds, tmp_path):
    images = load_coco(crowds / "train.json", crowds / "train").images
    require_depth(images, "depth")
    (tmp_path / "depth").mkdir()
    elsewhere = [type(image)(**{**vars(image), "path": tmp_path / image.file_name}) for image in images]
    with pytest.raises(
        UserError, match=f"2 depth maps are missing, such as {tmp_path}/depth/train_00000.png"
    ):
        require_depth(elsewhere, "depth")


def test_crowds__depth_map__has_one_value_for_each_object_and_the_ground_farthest(crowds):
    for seed in range(10):
        scene = draw_crowds(np.random.default_rng(seed), CROWD_FAMILIES)
        values = [np.unique(scene.depth[item.mask]) for item in scene.objects]
        assert [len(value) for value in values] == [1] * len(values)
        assert np.all(np.diff(np.concatenate(values).astype(int)) > 0)  # back to front
        assert scene.depth.min() == 0
    file = crowds / "depth/train/train_00000.png"
    assert np.array(Image.open(file)).max() > 255


def network(*overrides: str) -> Any:
    _, config = load_experiment(CROWDS, overrides)
    torch.manual_seed(0)
    found = build_network(config, len(CLASSES))
    found.init_weights()
    return found.eval()


def queries(model: Any, images_BCHW: torch.Tensor) -> list[torch.Tensor]:
    """Logits of all queries of a batch."""
    from mmdet.structures import DetDataSample

    samples = [DetDataSample(metainfo={"img_shape": images_BCHW.shape[-2:]}) for _ in images_BCHW]
    data = model.data_preprocessor({"inputs": list(images_BCHW), "data_samples": samples})
    found = model.mask_queries(data["inputs"], data["data_samples"])
    return [logits for of_image in found for logits in of_image]


def test_fusion__at_first__adds_nothing_to_the_network_without_depth():
    plain, guided = network(), network("data.depth=depth")
    guided.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randint(0, 256, (2, 4, 64, 96), generator=torch.Generator().manual_seed(1)).byte()
    with torch.no_grad():
        for expected, found in zip(queries(plain, images[:, :3]), queries(guided, images), strict=True):
            assert torch.equal(found, expected)


def test_fusion__once_it_has_learned__depends_on_depth_through_encoder_and_controller():
    from s4m_pipeline.models.depth import DepthFusion

    torch.manual_seed(0)
    fusion, depth = DepthFusion([4, 6], 8), torch.randn(2, 1, 16, 24)
    levels = [torch.randn(2, 4, 4, 6), torch.randn(2, 6, 2, 3)]
    optimizer = torch.optim.SGD(fusion.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        fused = fusion(levels, depth)
        assert [torch.equal(*pair) for pair in zip(fused, levels, strict=True)] == [step == 0] * 2
        torch.stack([level.square().mean() for level in fused]).sum().backward()
        optimizer.step()
    assert all(weight.grad.abs().sum() > 0 for weight in fusion.parameters())
    other = fusion(levels, depth.flip(-1))
    assert not any(torch.equal(*pair) for pair in zip(fused, other, strict=True))


def test_controller__that_is_closed__lets_no_depth_through():
    from s4m_pipeline.models.depth import DepthFusion

    fusion, levels = DepthFusion([4], 8), [torch.randn(1, 4, 4, 4)]
    torch.nn.init.ones_(fusion.mixers[0].weight)
    assert not torch.equal(fusion(levels, torch.randn(1, 1, 16, 16))[0], levels[0])
    torch.nn.init.constant_(fusion.controllers[0].bias, -1e4)
    assert torch.equal(fusion(levels, torch.randn(1, 1, 16, 16))[0], levels[0])


def test_initial_weights__of_a_network_without_depth__fit_one_with_it(tmp_path):
    from s4m_pipeline.models.checkpoint import write_weights

    plain, guided = network(), network("data.depth=depth")
    write_weights(tmp_path / "plain.safetensors", plain.state_dict(), CLASSES)
    weights: Weights = read_weights(tmp_path / "plain.safetensors")
    require_fit(guided, weights, CLASSES)
    initialize(guided, weights, CLASSES)
    own = guided.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in plain.state_dict().items())
    del weights.tensors["panoptic_head.query_feat.weight"]
    with pytest.raises(UserError, match=r"query_feat\.weight: not in the file"):
        require_fit(guided, weights, CLASSES)


def test_student_preprocessor__pastes_depth_with_its_instance_and_leaves_it_out_of_photometric_changes():
    from tests.test_student.test_preprocessor import MEAN, STD, batch

    register_all()
    from s4m_pipeline.student.preprocessor import AugmentingPreprocessor

    def made(photometric: PhotometricOptions) -> torch.Tensor:
        torch.manual_seed(3)
        build = AugmentingPreprocessor(
            arp=ArpOptions(), photometric=photometric, mean=[*MEAN, 0.0], std=[*STD, 255.0]
        )
        data = batch("unlabeled", "unlabeled")
        # Depth is the red channel, as the network would see it without normalization.
        data["inputs"] = [torch.cat([image, image[:1]]) for image in data["inputs"]]
        inputs: torch.Tensor = build(data, training=True)["inputs"]
        return inputs

    calm = made(PhotometricOptions(jitter_p=0.0, grey_p=0.0, blur_p=0.0))
    torch.testing.assert_close(calm[:, 0] * STD[0] + MEAN[0], calm[:, 3] * 255, rtol=0, atol=1e-3)
    strong = made(PhotometricOptions(jitter_p=1.0, blur_p=1.0))
    assert torch.equal(strong[:, 3], calm[:, 3])
    assert not torch.equal(strong[:, 0], calm[:, 0])
    untouched = batch("unlabeled", "unlabeled")["inputs"]
    assert not torch.equal(calm[0, 3] * 255, untouched[0][0])


def test_views__of_an_image_with_depth__scale_and_mirror_both():
    from s4m_pipeline.refine.selection import view_of

    image = torch.rand(1, 20, 30, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1)
    view, height, width = view_of(image, 1.5, True, 32, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert (height, width) == (30, 45)
    assert torch.equal(view[3, :30, :45], view[0, :30, :45])
    assert view[:, -1, -1].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_all_stages__with_depth__train_label_and_predict(crowds, tmp_path):
    from s4m_pipeline.apps.predict.predictor import Predictor
    from s4m_stages.pretrain_teacher import pretrain_teacher
    from s4m_stages.refine import refine
    from s4m_stages.train_student import train_student

    settings = [
        f"data.root={crowds}",
        "data.test=None",
        "data.test_images=None",
        "data.depth=depth",
        *(f"{stage}.{key}" for stage in ("teacher", "student") for key in ("batch_size=2", "workers=0")),
        "optim_wrapper.optimizer.lr=1e-5",
        "teacher.iterations=1",
        "student.iterations=2",
        "student.burn_in=1",
        "student.refresh_every=1",
        "student.unlabeled_batch_size=2",
        "refine.prompt=None",
        "refine.min_score=0",
        "refine.min_soft_area=0",
        "refine.workers=0",
        "sd.enabled=False",
    ]
    pretrain_teacher(CROWDS, settings, tmp_path)
    refine(
        CROWDS,
        shard=None,
        generation=None,
        teacher=None,
        preview=None,
        overrides=settings,
        work_dir=tmp_path,
        trust_checkpoint=False,
    )
    train_student(CROWDS, settings, tmp_path)
    weights = tmp_path / "student/weights.safetensors"
    learned = read_weights(weights).tensors
    assert learned["depth_fusion.mixers.0.weight"].abs().sum() > 0
    image = crowds / "val/val_00000.png"
    predictor = Predictor(CROWDS, weights, overrides=settings, min_score=0, device="cpu")
    assert len(predictor.predict(image)) > 0
    with pytest.raises(UserError, match="an image in memory has none"):
        predictor.predict(np.array(Image.open(image)))
