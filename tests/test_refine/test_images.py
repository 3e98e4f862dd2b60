"""Lists of unlabeled images, and how photos are batched."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s4m_cache.masks import Masks
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data import packed_masks
from s4m_pipeline.data.packed_masks import pack_masks, tight_boxes
from s4m_pipeline.data.unlabeled import load_unlabeled
from s4m_pipeline.refine import images
from s4m_pipeline.refine.images import Photo, PhotoFiles, Unreadable, batches_by_size


def test_load_unlabeled__damaged_file_of_a_folder__keeps_its_number(tmp_path: Path):
    for name in ("a.png", "c.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no image")
    found = load_unlabeled(tmp_path, tmp_path)
    assert [(image.id, image.file_name, image.width) for image in found.images] == [
        (1, "a.png", 8),
        (2, "b.png", 0),
        (3, "c.png", 8),
    ]
    digest = found.digest
    (tmp_path / "b.png").rename(tmp_path / "bb.png")
    assert load_unlabeled(tmp_path, tmp_path).digest != digest


def test_load_unlabeled__nothing_there__is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        load_unlabeled(tmp_path / "absent.json", tmp_path)
    with pytest.raises(UserError, match="contains no images"):
        load_unlabeled(tmp_path, tmp_path)


def test_photo_files__pipeline_that_reads_images_otherwise__is_refused():
    with pytest.raises(UserError, match="LoadRGB as the first transform"):
        PhotoFiles([], [{"type": "LoadImageFromFile"}])


def test_photo_files__image_too_narrow_to_be_scaled__is_unreadable(tmp_path: Path):
    Image.new("RGB", (90, 1)).save(tmp_path / "a.png")
    pipeline = [
        {"type": "LoadRGB"},
        {"type": "Resize", "scale": (40, 40), "keep_ratio": True},
        {"type": "PackDetInputs"},
    ]
    found = PhotoFiles(load_unlabeled(tmp_path, tmp_path).images, pipeline)[0]
    assert isinstance(found, Unreadable)
    assert "test_pipeline cannot take 90 x 1 pixels" in found.reason
    assert "\n" not in found.reason


def test_batches_by_size__each_photo_once__with_others_of_its_padded_size():
    rng = np.random.default_rng(0)
    photos = [
        Photo(number, torch.zeros(3, 1, 1), torch.zeros(3, *rng.integers(1, 97, 2))) for number in range(200)
    ]
    batches = list(batches_by_size(photos, size=4, divisor=32, tiling=None))
    assert sorted(photo.image_id for batch in batches for photo in batch) == list(range(200))
    for batch in batches:
        assert len(batch) <= 4
        assert len({tuple(-(-side // 32) for side in photo.inputs.shape[1:]) for photo in batch}) == 1
    assert sum(len(batch) == 4 for batch in batches) > 30


def test_batches_by_size__large_photos__wait_within_a_limit_of_pixels():
    waiting, most, limit = 0, 0, images._WAITING_PIXELS

    def photos():
        nonlocal waiting, most
        for number in range(40):
            pixels = torch.zeros(1, 1, 1).expand(3, 5000, 5000)  # a billion in all
            waiting += pixels[0].numel()
            most = max(most, waiting)
            yield Photo(number, pixels, torch.zeros(3, 32 * (number + 1), 32))

    for batch in batches_by_size(photos(), size=16, divisor=32, tiling=None):
        waiting -= sum(photo.pixels[0].numel() for photo in batch)
    assert waiting == 0
    assert limit < most <= limit + 5000 * 5000


def test_tight_boxes__ends_are_exclusive():
    mask = torch.zeros(1, 5, 7, dtype=torch.bool)
    mask[0, 1:3, 2:7] = True
    assert tight_boxes(mask).tolist() == [[1, 2, 3, 7]]


def test_pack_masks__of_any_masks__are_the_masks_and_the_bytes_of_the_cache():
    masks = torch.rand(5, 13, 21, generator=torch.Generator().manual_seed(0)) > 0.8
    masks[1] = False
    masks[2, :, :7] = False
    expected = Masks.from_dense(masks.numpy())
    for packed in (pack_masks(masks), packed_masks._pack_on_device(masks, tight_boxes(masks))):
        np.testing.assert_array_equal(packed.dense((0, 0, 13, 21)), masks.numpy())
        np.testing.assert_array_equal(packed.boxes, expected.boxes)
        np.testing.assert_array_equal(packed.bits, expected.bits)
        assert packed.boxes[1].tolist() == [0, 0, 0, 0]
    assert len(pack_masks(masks[:0])) == 0
    assert pack_masks(masks[1:2]).bits.size == 0
