"""Test-time augmentation of the teacher."""

import torch

from s4m_pipeline.refine.selection import VIEWS, as_first, average_views, view_of


def queries(seed, count=6):
    """Class logits (Q, 4) and mask logits (Q, 8, 8) of clear blocks in different places."""
    random = torch.Generator().manual_seed(seed)
    masks = torch.full((count, 8, 8), -4.0)
    for k in range(count):
        masks[k, 2 * (k // 3) : 2 * (k // 3) + 2, 2 * (k % 3) : 2 * (k % 3) + 2] = 4.0
    return torch.randn(count, 4, generator=random), masks


def test_average_views__of_the_same_view__is_that_view_in_any_order_of_its_queries():
    classes, masks = queries(0)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    found, found_masks = average_views(
        torch.stack([classes, classes[order]]), torch.stack([masks, masks[order]])
    )
    torch.testing.assert_close(found.softmax(-1), classes.softmax(-1))
    torch.testing.assert_close(found_masks, masks)


def test_average_views__object_that_another_view_misses__is_half_as_likely_and_keeps_its_mask():
    classes, masks = queries(0)
    other = masks.clone()
    other[2] = -4.0
    found, found_masks = average_views(torch.stack([classes, classes]), torch.stack([masks, other]))
    expected = classes.softmax(-1)
    expected[2] = (expected[2] + torch.tensor([0.0, 0, 0, 1])) / 2
    torch.testing.assert_close(found.softmax(-1), expected)
    torch.testing.assert_close(found_masks, masks)


def test_view_of__and_back__lies_where_it_was_in_every_view():
    """A network whose mask logits are the mean brightness of 4 x 4 pixels, on a bright block."""
    image = torch.zeros(3, 96, 128, dtype=torch.uint8)
    image[:, 16:48, 80:112] = 200
    for scale, mirrored in VIEWS:
        pixels, height, width = view_of(image, scale, mirrored, 32, torch.tensor([7.0, 8.0, 9.0]))
        assert (height, width) == (round(96 * scale), round(128 * scale))
        assert all(side % 32 == 0 for side in pixels.shape[-2:])
        assert (pixels[:, height:] == torch.tensor([7.0, 8.0, 9.0]).view(3, 1, 1)).all()
        cells = torch.nn.functional.avg_pool2d(pixels[:1, :height, :width], 4) - 100
        back = as_first(cells, mirrored, (24, 32))[0] > 0
        expected = torch.zeros(24, 32, dtype=torch.bool)
        expected[4:12, 20:28] = True
        assert (back & expected).sum() / (back | expected).sum() > 0.75


def test_view_of__images_of_one_padded_size__have_one_in_every_view():
    for scale, mirrored in VIEWS:
        shapes = {
            tuple(view_of(torch.zeros(3, height, 120), scale, mirrored, 32, torch.zeros(3))[0].shape)
            for height in (65, 80, 96)
        }
        assert len(shapes) == 1
