"""ARP as a batch step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s4m_pipeline.config.student import ArpOptions
from s4m_pipeline.student.arp import LabeledImages, paste_instances
from tests.test_student.reference_arp import paste_slowly
from tests.test_student.scenes import PADDED_HW, color_of, painted_batch, weights_of


def paste(batch, options, seed=0):
    torch.manual_seed(seed)
    return paste_instances(batch, options)


def image_pair(first_masks, second_masks, sizes_hw=None):
    """Two images of 6 x 6: zeros with labels 1, 2, ... and ones with labels 11, 12, ..."""
    masks = [torch.zeros(len(boxes), 6, 6, dtype=torch.bool) for boxes in (first_masks, second_masks)]
    for image, boxes in zip(masks, (first_masks, second_masks), strict=True):
        for mask, (top, left, bottom, right) in zip(image, boxes, strict=True):
            mask[top:bottom, left:right] = True
    first_labels, second_labels = torch.arange(len(first_masks)) + 1, torch.arange(len(second_masks)) + 11
    return LabeledImages(
        pixels_B3HW=torch.stack([torch.zeros(3, 6, 6), torch.ones(3, 6, 6)]),
        sizes_hw=sizes_hw or [(6, 6), (6, 6)],
        masks=masks,
        labels=[first_labels, second_labels],
        weights=[weights_of(labels) for labels in (first_labels, second_labels)],
        ignored=[None, None],
    )


OPTIONS = {
    "paper, Cityscapes": ArpOptions(),
    "half of the images": ArpOptions(fraction=0.5),
    "large instances": ArpOptions(min_area_px=9),
    "paper, COCO": ArpOptions(scale_range=(0.8, 1.2), placement="random"),
    "large changes": ArpOptions(scale_range=(0.2, 3.0), placement="random"),
    "same place, other size": ArpOptions(scale_range=(0.3, 2.0)),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("seed", range(6))
def test_paste_instances__on_random_scenes_of_all_sizes__equals_the_slow_reference(options, seed):
    batch = painted_batch(seed, num_images=seed + 1, overlapping=bool(seed % 2))
    result = paste(batch, options, seed)
    # Resized pixels are weighted sums in another order of rounding.
    tolerance = 0 if options.scale_range == (1.0, 1.0) else 1e-5
    for i, (pixels, masks, labels, ignored) in enumerate(paste_slowly(batch, options, seed)):
        torch.testing.assert_close(
            result.pixels_B3HW[i], torch.from_numpy(pixels), atol=tolerance, rtol=0, check_dtype=True
        )
        assert result.labels[i].tolist() == labels
        assert torch.equal(result.weights[i], weights_of(result.labels[i]))
        assert [mask.tolist() for mask in result.masks[i]] == [mask.tolist() for mask in masks]
        assert (result.ignored[i] is None) == (ignored is None)
        if ignored is not None:
            assert result.ignored[i].tolist() == ignored.tolist()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_images=st.integers(0, 5),
    fraction=st.floats(0, 1),
    min_area_px=st.integers(0, 30),
    placement=st.sampled_from(["same", "random"]),
)
def test_paste_instances__painted_instances__every_pixel_agrees_with_its_one_mask(
    seed, num_images, fraction, min_area_px, placement
):
    batch = painted_batch(seed, num_images)
    options = ArpOptions(fraction=fraction, min_area_px=min_area_px, placement=placement)
    result = paste(batch, options, seed)
    for image, (height, width) in enumerate(result.sizes_hw):
        expected = color_of(-1 - image).expand(3, height, width).clone()
        masks = result.masks[image][:, :height, :width]
        for mask, label in zip(masks, result.labels[image].tolist(), strict=True):
            expected[:, mask] = color_of(label)[:, 0]
        assert not (masks.sum(dim=0) > 1).any()
        assert torch.equal(result.pixels_B3HW[image, :, :height, :width], expected)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    low=st.floats(0.1, 1.5),
    more=st.floats(0, 2),
    placement=st.sampled_from(["same", "random"]),
)
def test_paste_instances__at_any_scale__keeps_padding_and_only_swaps_whole_labels(seed, low, more, placement):
    batch = painted_batch(seed, 4)
    result = paste(batch, ArpOptions(scale_range=(low, low + more), placement=placement), seed)
    known = set(torch.cat(batch.labels).tolist())
    for image, (height, width) in enumerate(batch.sizes_hw):
        padding = torch.ones(PADDED_HW, dtype=torch.bool)
        padding[:height, :width] = False
        assert not result.pixels_B3HW[image][:, padding].any()
        own = dict(zip(batch.labels[image].tolist(), batch.masks[image], strict=True))
        for mask, label in zip(result.masks[image], result.labels[image].tolist(), strict=True):
            assert label in known
            untouched = own.get(label, torch.zeros_like(mask))
            assert torch.equal(mask & padding, untouched & padding)
        assert len(set(result.labels[image].tolist())) == len(result.labels[image])


def test_paste_instances__a_wholly_covered_instance__is_dropped_with_its_label():
    batch = image_pair([(2, 2, 4, 4), (0, 0, 1, 1)], [(1, 1, 5, 5)])
    result = paste(batch, ArpOptions())
    assert [each.tolist() for each in result.labels] == [[2, 11], [11, 1, 2]]
    assert all(mask.any() for masks in result.masks for mask in masks)


def test_paste_instances__an_image_without_instances__pastes_nothing_and_receives():
    batch = image_pair([], [(0, 0, 2, 2)])
    result = paste(batch, ArpOptions())
    assert [each.tolist() for each in result.labels] == [[11], [11]]
    assert torch.equal(result.pixels_B3HW[1], batch.pixels_B3HW[1])
    assert int(result.pixels_B3HW[0, 0].sum()) == 4


@pytest.mark.parametrize("placement", ["same", "random"])
def test_paste_instances__no_instances_at_all__changes_nothing(placement):
    batch = image_pair([], [])
    result = paste(batch, ArpOptions(placement=placement))
    assert torch.equal(result.pixels_B3HW, batch.pixels_B3HW)
    assert [masks.shape for masks in result.masks] == [(0, 6, 6)] * 2


@pytest.mark.parametrize(
    ("num_images", "fraction", "paired"),
    [
        (8, 1.0, 8),
        (7, 1.0, 6),
        (8, 0.5, 4),
        (10, 0.7, 6),
        (100, 0.58, 58),
        (4, 0.2, 0),
        (4, 0.0, 0),
        (0, 1.0, 0),
    ],
)
def test_paste_instances__fraction__pairs_the_largest_even_number_of_images(num_images, fraction, paired):
    mask = torch.ones(1, 1, 1, dtype=torch.bool)
    batch = LabeledImages(
        pixels_B3HW=torch.zeros(num_images, 3, 1, 1),
        sizes_hw=[(1, 1)] * num_images,
        masks=[mask] * num_images,
        labels=[torch.tensor([i]) for i in range(num_images)],
        weights=[torch.ones(1, 2)] * num_images,
        ignored=[None] * num_images,
    )
    given_by = [labels.item() for labels in paste(batch, ArpOptions(fraction=fraction)).labels]
    assert sum(giver != image for image, giver in enumerate(given_by)) == paired
    assert all(given_by[giver] == image for image, giver in enumerate(given_by))


def test_paste_instances__over_seeds__pairs_every_two_images():
    batch = painted_batch(0, 4, sizes_hw=[PADDED_HW] * 4)
    batch.masks[:] = [torch.ones(1, *PADDED_HW, dtype=torch.bool)] * 4
    batch.labels[:] = [torch.tensor([i]) for i in range(4)]
    batch.weights[:] = [weights_of(labels) for labels in batch.labels]
    partners = {paste(batch, ArpOptions(), seed).labels[0].item() for seed in range(40)}
    assert partners == {1, 2, 3}


def test_paste_instances__random_place__reaches_every_place_where_the_group_fits():
    batch = image_pair([(0, 0, 1, 1), (1, 2, 2, 3)], [], sizes_hw=[(6, 6), (4, 5)])
    places = set()
    for seed in range(300):
        result = paste(batch, ArpOptions(placement="random"), seed)
        (y0, x0), (y1, x1) = (mask.nonzero()[0].tolist() for mask in result.masks[1])
        assert (y1 - y0, x1 - x0) == (1, 2)
        places.add((y0, x0))
    assert places == {(y, x) for y in range(3) for x in range(3)}


def test_paste_instances__masks_in_the_padding_of_the_source__are_not_pasted():
    batch = image_pair([(2, 0, 6, 6)], [], sizes_hw=[(4, 4), (6, 6)])
    result = paste(batch, ArpOptions())
    assert torch.equal(result.masks[1], image_pair([(2, 0, 4, 4)], []).masks[0])


def test_paste_instances__group_outside_the_targets_valid_area__changes_nothing():
    batch = image_pair([(4, 4, 6, 6)], [], sizes_hw=[(6, 6), (3, 3)])
    result = paste(batch, ArpOptions())
    assert torch.equal(result.pixels_B3HW, batch.pixels_B3HW)
    assert len(result.labels[1]) == 0


def test_paste_instances__inputs__are_not_modified():
    batch, again = painted_batch(5, 4), painted_batch(5, 4)
    result = paste(batch, ArpOptions(scale_range=(0.5, 2), placement="random"))
    assert not torch.equal(result.pixels_B3HW, batch.pixels_B3HW)
    assert torch.equal(batch.pixels_B3HW, again.pixels_B3HW)
    for before, after in zip(again.masks + again.labels, batch.masks + batch.labels, strict=True):
        assert torch.equal(before, after)
    regions = [pair for pair in zip(again.ignored, batch.ignored, strict=True) if pair[0] is not None]
    assert regions and all(torch.equal(*pair) for pair in regions)
