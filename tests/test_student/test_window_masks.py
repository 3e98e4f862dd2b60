"""Masks that stay packed through geometric augmentation, against mmdet's dense ones."""

import pickle
from collections.abc import Callable
from typing import Any

import mmcv
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.dataset import Compose

from s4m_cache.masks import Masks
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.seeding import seed_all
from s4m_pipeline.data.window_masks import WindowMasks
from s4m_pipeline.models.registry import register_all

Operation = Callable[[Any], Any]
sides = st.integers(1, 70)


def make_pair(seed: int, count: int, height: int, width: int) -> tuple[WindowMasks, BitmapMasks]:
    """The same random masks twice: ragged blocks, one without pixels, one of the whole image."""
    rng = np.random.default_rng(seed)
    dense = np.zeros((count, height, width), np.uint8)
    for mask in dense:
        (y0, y1), (x0, x1) = np.sort(rng.integers(0, height + 1, 2)), np.sort(rng.integers(0, width + 1, 2))
        mask[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < rng.choice([0.1, 0.7, 1.0])
    dense[1:2] = 0
    dense[2:3] = 1
    return WindowMasks(Masks.from_dense(dense), height, width), BitmapMasks(dense, height, width)


def assert_equal(ours: WindowMasks, theirs: BitmapMasks) -> None:
    assert (len(ours), ours.height, ours.width) == (len(theirs), theirs.height, theirs.width)
    assert ours.to_ndarray().dtype == np.uint8
    np.testing.assert_array_equal(ours.to_ndarray(), theirs.to_ndarray())
    np.testing.assert_array_equal(ours.areas, theirs.areas)
    boxes = theirs.get_bboxes(HorizontalBoxes).tensor
    torch.testing.assert_close(ours.get_bboxes(HorizontalBoxes).tensor, boxes, rtol=0, atol=0)
    tensor = ours.to_tensor(torch.bool, "cpu")
    assert tensor.dtype == torch.bool
    np.testing.assert_array_equal(tensor.numpy(), theirs.masks > 0)


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    """One operation as mmdet's transforms call it, fitting masks of any size."""
    kind = draw(
        st.sampled_from(["resize", "rescale", "factor", "flip", "crop", "pad", "select", "look", "send"])
    )
    a, b, c, d = (draw(st.integers(0, 69)) for _ in range(4))
    direction = draw(st.sampled_from(["horizontal", "vertical", "diagonal"]))

    def crop(masks: Any) -> Any:
        y, x = a % masks.height, b % masks.width
        return masks.crop(np.array([x, y, x + c, y + d]))

    def rescale(masks: Any) -> Any:
        scale = (a + 8, b + 8)
        fits = 0 not in mmcv.rescale_size((masks.width, masks.height), scale)
        return masks.rescale(scale) if fits else masks

    def look(masks: Any) -> Any:
        masks.areas  # noqa: B018 - RandomCrop and FilterAnnotations look at masks in between
        return masks

    return {
        "resize": lambda masks: masks.resize((a + 1, b + 1)),
        "rescale": rescale,
        "factor": lambda masks: masks.rescale((a + 20) / 40),
        "flip": lambda masks: masks.flip(direction),
        "crop": crop,
        "pad": lambda masks: masks.pad((masks.height + a % 20, masks.width + b % 20), pad_val=0),
        "select": lambda masks: masks[np.random.default_rng(a).random(len(masks)) < 0.8],
        "look": look,
        "send": lambda masks: pickle.loads(pickle.dumps(masks)),
    }[kind]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 5), sides, sides, st.lists(operations(), max_size=8))
def test_window_masks__any_chain_of_operations_equals_bitmap_masks(
    seed: int, count: int, height: int, width: int, chain: list[Operation]
) -> None:
    ours, theirs = make_pair(seed, count, height, width)
    for operation in chain:
        ours, theirs = operation(ours), operation(theirs)
    assert_equal(ours, theirs)


GEOMETRY = {
    "jitter": [
        {"type": "RandomFlip", "prob": 0.5, "direction": ["horizontal", "vertical", "diagonal"]},
        {"type": "RandomResize", "scale": (96, 96), "ratio_range": (0.2, 2.0), "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (70, 50), "recompute_bbox": True, "allow_negative_crop": True},
        {"type": "FilterAnnotations", "min_gt_bbox_wh": (1e-5, 1e-5), "by_mask": True, "keep_empty": False},
        {"type": "Pad", "size": (96, 96)},
    ],
    "choice": [
        {"type": "RandomChoiceResize", "scales": [(60, 30), (130, 65), (200, 100)], "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (0.4, 0.9), "crop_type": "relative_range"},
        {"type": "RandomFlip", "prob": 0.5},
    ],
    "stretch": [
        {"type": "Resize", "scale": (81, 33), "keep_ratio": False},
        {"type": "RandomFlip", "prob": 0.5},
    ],
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_window_masks__through_mmdet_transforms_equal_bitmap_masks(name: str) -> None:
    register_all()
    pipeline = Compose([*GEOMETRY[name], {"type": "PackDetInputs"}])
    preprocessor = MODELS.build(
        {"type": "DetDataPreprocessor", "pad_size_divisor": 32, "pad_mask": True, "mask_pad_value": 0}
    )
    shown = 0
    for seed in range(30):
        packed = []
        for masks in make_pair(seed, 5, 64, 97):
            seed_all(seed)
            packed.append(pipeline(results_of(masks)))
        if packed[0] is None:
            assert packed[1] is None
            continue
        # One by one: a batch would be padded to the larger of the two.
        ours, theirs = (
            preprocessor({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}, True)
            for sample in packed
        )
        torch.testing.assert_close(ours["inputs"], theirs["inputs"], rtol=0, atol=0)
        found, expected = (batch["data_samples"][0].gt_instances for batch in (ours, theirs))
        assert_equal(found.masks, expected.masks)
        torch.testing.assert_close(found.bboxes, expected.bboxes, rtol=0, atol=0)
        assert found.labels.tolist() == expected.labels.tolist()
        shown += len(found)
    assert shown > 20


def results_of(masks: Any) -> dict[str, Any]:
    """What a loading transform leaves, the third instance ignored."""
    pixels = np.zeros((masks.height, masks.width, 3), np.uint8)
    return {
        "img": pixels,
        "img_shape": pixels.shape[:2],
        "gt_bboxes": masks.get_bboxes(HorizontalBoxes),
        "gt_bboxes_labels": np.arange(len(masks)),
        "gt_masks": masks,
        "gt_ignore_flags": np.arange(len(masks)) == 2,
    }


def test_window_masks__sent_to_another_process__take_no_more_than_their_packed_pixels() -> None:
    ours, _ = make_pair(0, 5, 64, 97)
    moved = ours.rescale((2000, 2000)).crop(np.array([100, 100, 300, 300]))
    packed = moved.packed()
    assert len(pickle.dumps(moved)) < packed.bits.nbytes + packed.boxes.nbytes + 1500
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(moved)).masks, moved.masks)


@pytest.mark.parametrize(
    "operation",
    [
        lambda masks: masks.rotate((64, 97), 30),
        lambda masks: masks.translate((64, 97), 5),
        lambda masks: masks.shear((64, 97), 0.1),
        lambda masks: masks.expand(128, 128, 5, 5),
        lambda masks: masks.crop_and_resize(np.zeros((1, 4)), (7, 7), np.zeros(1)),
        lambda masks: masks.cat([masks]),
        lambda masks: masks.resize((5, 5), "bilinear"),
        lambda masks: masks.pad((100, 100), 255),
        lambda masks: masks.get_bboxes("rbox"),
    ],
)
def test_window_masks__what_moves_no_whole_rows_and_columns_is_refused(operation: Operation) -> None:
    with pytest.raises(UserError, match="train_pipeline: packed masks cannot be "):
        operation(make_pair(0, 2, 64, 97)[0])
