"""Strong augmentation of colors."""

import pytest
import torch

from s4m_pipeline.config.student import PhotometricOptions
from s4m_pipeline.student.photometric import strong_augment

NOTHING = {"jitter_p": 0.0, "grey_p": 0.0, "blur_p": 0.0}
SIZES_HW = [(12, 20), (9, 16), (12, 7)]


def random_batch():
    pixels = torch.rand(3, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    for image, (height, width) in zip(pixels, SIZES_HW, strict=True):
        image[:, height:] = 0.25
        image[:, :, width:] = 0.25
    return pixels


def augment(pixels, seed=0, sizes_hw=SIZES_HW, **options):
    torch.manual_seed(seed)
    return strong_augment(pixels, sizes_hw, PhotometricOptions(**{**NOTHING, **options}))


def is_gray(images):
    return (images == images[:, :1]).flatten(1).all(dim=1)


def test_strong_augment__all_probabilities_0__changes_nothing():
    assert torch.equal(augment(random_batch()), random_batch())


def test_strong_augment__all_at_once__leaves_padding_range_and_input_alone():
    pixels = random_batch()
    for seed in range(20):
        result = augment(pixels, seed, jitter_p=1.0, grey_p=0.3, blur_p=1.0)
        assert result.min() >= 0 and result.max() <= 1
        for image, (height, width) in zip(result, SIZES_HW, strict=True):
            assert (image[:, height:] == 0.25).all() and (image[:, :, width:] == 0.25).all()
    assert torch.equal(pixels, random_batch())


@pytest.mark.parametrize(("name", "p"), [("jitter_p", 0.8), ("grey_p", 0.2), ("blur_p", 0.5)])
def test_strong_augment__each_transform__happens_as_often_as_asked_and_to_each_image_alone(name, p):
    pixels = torch.rand(400, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    result = augment(pixels, sizes_hw=[(4, 4)] * 400, **{name: p})
    changed = (result != pixels).flatten(1).any(dim=1).float().mean()
    assert abs(float(changed) - p) < 0.08  # more than three standard deviations


def test_strong_augment__grayscale__gives_equal_channels_in_the_valid_area():
    result = augment(random_batch(), grey_p=1.0)
    for image, (height, width) in zip(result, SIZES_HW, strict=True):
        assert is_gray(image[None, :, :height, :width]).all()
    assert not is_gray(random_batch()).any()


def test_strong_augment__jitter_strength_0__changes_nothing():
    result = augment(random_batch(), jitter_p=1.0, jitter=(0, 0, 0, 0))
    torch.testing.assert_close(result, random_batch())


def test_strong_augment__jitter__depends_on_the_pixel_alone():
    pixels = random_batch()
    flipped = augment(pixels.flip(2), jitter_p=1.0, sizes_hw=[(12, 20)] * 3).flip(2)
    torch.testing.assert_close(flipped, augment(pixels, jitter_p=1.0, sizes_hw=[(12, 20)] * 3))


def test_strong_augment__blur__spreads_a_dot_around_its_place_with_the_drawn_width():
    dot = torch.zeros(1, 3, 41, 41)
    dot[:, :, 20, 24] = 1
    result = augment(dot, sizes_hw=[(41, 41)], blur_p=1.0, blur_sigma_px=(2.0, 2.0))[0, 0].double()
    rows, columns = torch.meshgrid(torch.arange(41), torch.arange(41), indexing="ij")
    center = (result * rows).sum(), (result * columns).sum()
    variance = (result * (rows - 20) ** 2).sum()
    torch.testing.assert_close(torch.stack(center), torch.tensor([20.0, 24.0]).double(), atol=1e-3, rtol=0)
    assert 3.8 < variance < 4.0  # the kernel ends at three standard deviations


def test_strong_augment__padding_beside_a_flat_image__does_not_leak_in():
    flat = torch.zeros(1, 3, 12, 20)
    flat[:, :, :9, :11] = 0.6
    result = augment(flat, sizes_hw=[(9, 11)], blur_p=1.0)
    torch.testing.assert_close(result, flat)


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 20), (12, 3)])
def test_strong_augment__an_image_smaller_than_the_kernel__is_still_blurred(size_hw):
    pixels = random_batch()[:1]
    result = augment(pixels, sizes_hw=[size_hw], jitter_p=1.0, blur_p=1.0)
    assert result.isfinite().all()


def test_strong_augment__same_seed__same_result_and_another_seed_another():
    every = {"jitter_p": 0.8, "grey_p": 0.2, "blur_p": 0.5}
    first, second, other = (augment(random_batch(), seed, **every) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
