"""The paper's numbers in the transforms of the images: scales, crops, flips, sizes in tests."""

from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from tests.test_hyperparameters.experiments import Built


def _transform(built: Built, pipeline: str, kind: str) -> Any:
    from mmdet.registry import TRANSFORMS

    (config,) = (step for step in built.config[pipeline] if step["type"] == kind)
    return TRANSFORMS.build(config)


def _blank(height: int, width: int) -> dict[str, Any]:
    return {
        "img": np.zeros((height, width, 3), np.uint8),
        "img_shape": (height, width),
        "ori_shape": (height, width),
    }


def test_geometry__of_cityscapes__draws_the_papers_shortest_sides_and_crops(built: Built) -> None:
    if built.name != "cityscapes":
        pytest.skip("COCO has another geometry")
    resize, crop = (
        _transform(built, "train_pipeline", "RandomChoiceResize"),
        _transform(built, "train_pipeline", "RandomCrop"),
    )
    papers = [int(512 * share / 5) for share in range(5, 21)]
    assert papers[:2] == [512, 614] and papers[-1] == 2048
    assert [min(scale) for scale in resize.scales] == papers
    for _ in range(4):
        height, width = resize(_blank(1024, 2048))["img_shape"][:2]
        assert height in papers and abs(width - 2 * height) <= 2
    for side in (512, 2048):
        assert crop(_blank(side, 2 * side))["img"].shape == (512, 1024, 3)


def test_geometry__of_coco__jitters_scales_from_a_tenth_to_two(built: Built) -> None:
    if built.name != "coco":
        pytest.skip("Cityscapes has another geometry")
    from mmdet.registry import MODELS

    resize = _transform(built, "train_pipeline", "RandomResize")
    sides = [max(resize(_blank(6, 64))["img_shape"][:2]) for _ in range(100)]
    assert 102 <= min(sides) < 300 and 1800 < max(sides) <= 2048
    crop = _transform(built, "train_pipeline", "RandomCrop")
    assert crop(_blank(1500, 2000))["img"].shape == (1024, 1024, 3)
    assert crop(_blank(80, 102))["img"].shape == (80, 102, 3)

    preprocessor = MODELS.build(built.config["model"]["data_preprocessor"])
    batch = {"inputs": [torch.zeros(3, 80, 102, dtype=torch.uint8)], "data_samples": [_sample(80, 102)]}
    assert preprocessor(batch, training=True)["inputs"].shape == (1, 3, 1024, 1024)


def _sample(height: int, width: int) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    masks = BitmapMasks(np.zeros((0, height, width), np.uint8), height, width)
    sample = DetDataSample(metainfo={"img_shape": (height, width)})
    sample.gt_instances = InstanceData(masks=masks, labels=torch.zeros(0, dtype=torch.int64))
    return sample


def test_geometry__flips_half_of_the_images(built: Built) -> None:
    assert _transform(built, "train_pipeline", "RandomFlip").prob == 0.5


SIZES = {
    "cityscapes": {(1024, 2048): (1024, 2048)},
    "coco": {(480, 640): (800, 1067), (640, 480): (1067, 800), (400, 1000): (533, 1333)},
}


def test_size__in_tests_is_the_papers(built: Built) -> None:
    resize = _transform(built, "test_pipeline", "Resize")
    found = {size: resize(_blank(*size))["img_shape"][:2] for size in SIZES[built.name]}
    assert found == SIZES[built.name]
