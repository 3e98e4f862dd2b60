"""What the student's preprocessor makes of a loaded batch."""

import copy
from typing import Any

import numpy as np
import torch

from s4m_cache.masks import Masks
from s4m_pipeline.config.student import ArpOptions, PhotometricOptions
from s4m_pipeline.data.window_masks import WindowMasks
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.student.arp import paste_instances
from s4m_pipeline.student.photometric import strong_augment

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def preprocessor(**changes: Any) -> Any:
    register_all()
    from s4m_pipeline.student.preprocessor import AugmentingPreprocessor

    options = {
        "arp": ArpOptions(),
        "photometric": PhotometricOptions(),
        **changes,
    }
    return AugmentingPreprocessor(mean=MEAN, std=STD, pad_size_divisor=32, pad_mask=True, **options)


def batch(*branches: str, low: float = 0.0, high: float = 255.0) -> dict[str, Any]:
    """Images of 40 x 48 pixels with one rectangle each, pixels uniform from `low` to `high`."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for place, branch in enumerate(branches):
        inputs.append(torch.rand(3, 40, 48, generator=generator) * (high - low) + low)
        mask = np.zeros((1, 40, 48), np.uint8)
        mask[:, 4 * place : 4 * place + 8, 6:20] = 1
        meta = {"img_shape": (40, 48), "ori_shape": (40, 48), "branch": branch}
        instances = InstanceData(labels=torch.tensor([place]), masks=BitmapMasks(mask, 40, 48))
        samples.append(DetDataSample(metainfo=meta, gt_instances=instances))
    return {"inputs": inputs, "data_samples": samples}


def test_preprocessor__pixels_outside_the_range_give_finite_inputs() -> None:
    """As color distortion while loading leaves them: 0 in one channel and less in the others."""
    for seed in range(12):
        data = batch(*["unlabeled"] * 4, low=-30.0, high=380.0)
        for image in data["inputs"]:
            image[:, :10] = torch.tensor([0.0, -5.0, -3.0])[:, None, None]
        torch.manual_seed(seed)
        assert preprocessor()(data, training=True)["inputs"].isfinite().all()


def test_preprocessor__labeled_images_are_those_of_mmdet() -> None:
    from mmdet.models import DetDataPreprocessor

    plain = DetDataPreprocessor(mean=MEAN, std=STD, pad_size_divisor=32)
    expected = plain(batch("labeled", "unlabeled"), training=True)["inputs"]
    found = preprocessor()(batch("labeled", "unlabeled"), training=True)["inputs"]
    assert torch.equal(found[0], expected[0])
    assert not torch.equal(found[1], expected[1])


def test_preprocessor__unlabeled_images_are_those_normalized_first_and_restored_to_be_augmented() -> None:
    """The slower way: mmdet normalizes, its pixels are restored, augmented, normalized and padded again."""
    from mmdet.models import DetDataPreprocessor

    from s4m_pipeline.models.head import as_tensors
    from s4m_pipeline.student.preprocessor import labeled_images

    plain = DetDataPreprocessor(mean=MEAN, std=STD, pad_size_divisor=32, pad_mask=True)
    data = plain(batch("unlabeled", "unlabeled"), training=True)
    for sample in data["data_samples"]:
        sample.gt_instances = as_tensors(sample.gt_instances, data["inputs"].device)
    torch.manual_seed(0)
    pasted = paste_instances(
        labeled_images(data["inputs"] * plain.std + plain.mean, data["data_samples"]), ArpOptions()
    )
    pixels = strong_augment(pasted.pixels_B3HW, pasted.sizes_hw, PhotometricOptions())
    expected = (pixels * 255 - plain.mean) / plain.std
    expected[:, :, 40:] = expected[:, :, :, 48:] = 0

    torch.manual_seed(0)
    found = preprocessor()(batch("unlabeled", "unlabeled"), training=True)["inputs"]
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)  # pixels have a standard deviation of 1


def test_preprocessor__arp_exchanges_instances_of_unlabeled_images_only() -> None:
    quiet = PhotometricOptions(jitter_p=0.0, grey_p=0.0, blur_p=0.0)
    out = preprocessor(photometric=quiet)(batch("labeled", "unlabeled", "unlabeled"), training=True)
    labels = [sample.gt_instances.labels.tolist() for sample in out["data_samples"]]
    assert labels == [[0], [1, 2], [2, 1]]
    for sample in out["data_samples"]:
        assert sample.gt_instances.masks.dtype == torch.bool
        assert sample.gt_instances.masks.shape[1:] == (64, 64)


def test_preprocessor__fraction_of_labeled_images__exchange_instances_among_themselves() -> None:
    data = batch("labeled", "labeled", "labeled", "unlabeled", "unlabeled")
    plain = preprocessor()(copy.deepcopy(data), training=True)
    torch.manual_seed(0)
    out = preprocessor(labeled=0.7)(data, training=True)  # of 2.1 images 2
    labels = [sample.gt_instances.labels.tolist() for sample in out["data_samples"]]
    assert labels == [[0, 1], [1, 0], [2], [3, 4], [4, 3]]
    changed = [
        not torch.equal(found, image) for found, image in zip(out["inputs"], plain["inputs"], strict=True)
    ]
    assert changed[:3] == [True, True, False]


def test_preprocessor__samples_without_a_branch__are_labeled() -> None:
    data = batch("labeled", "labeled")
    for sample in data["data_samples"]:
        del sample.branch
    out = preprocessor(labeled=1.0)(data, training=True)
    assert [sample.gt_instances.labels.tolist() for sample in out["data_samples"]] == [[0, 1], [1, 0]]


def test_preprocessor__ignored_regions__are_padded_and_lose_what_arp_pastes() -> None:
    data = batch("labeled", "unlabeled", "unlabeled")
    region = np.zeros((1, 40, 48), np.bool_)
    region[:, :20] = True
    data["data_samples"][2].ignored = WindowMasks(Masks.from_dense(region), 40, 48)
    out = preprocessor()(data, training=True)["data_samples"]
    assert ["ignored" in sample for sample in out] == [False, False, True]
    expected = np.zeros((64, 64), np.bool_)
    expected[:20, :48] = True
    expected[4:12, 6:20] = False  # the instance of the second image
    np.testing.assert_array_equal(out[2].ignored.numpy(), expected)


def test_preprocessor__padding_stays_zero_after_strong_augmentation() -> None:
    out = preprocessor()(batch("unlabeled", "unlabeled"), training=True)["inputs"]
    assert not out[:, :, 40:].any()
    assert not out[:, :, :, 48:].any()


def test_preprocessor__in_a_training_of_mixed_precision__gives_the_pixels_of_float32() -> None:
    always = PhotometricOptions(jitter_p=1.0, grey_p=0.0, blur_p=1.0)
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            data = preprocessor(photometric=always)(batch("unlabeled", "unlabeled"), training=True)
        found.append(data["inputs"])
    assert torch.equal(*found)


def test_preprocessor__at_test_time_augments_nothing() -> None:
    found = preprocessor()(batch("unlabeled"), training=False)["inputs"]
    pixels = batch("unlabeled")["inputs"][0]
    normalized = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(found[0, :, :40, :48], normalized)
