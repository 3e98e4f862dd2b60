"""The picture of ARP pairs."""

import numpy as np
import torch
from PIL import Image

from s4m_pipeline.options.student import ArpOptions
from s4m_pipeline.report.arp import draw_pairs
from s4m_pipeline.report.sheets import COLOURS, GAP_PX, SIDE_PX, TITLE_PX
from s4m_pipeline.student.arp import LabelledImages, paste_instances

CLASSES = ["coin", "leaf"]
SIDE = 32


def two_images():
    """A dark image with a coin at the top left, a light one with a leaf at the bottom right, padded."""
    pixels, masks = torch.zeros(2, 3, 48, 48), torch.zeros(2, 1, 48, 48, dtype=torch.bool)
    pixels[1, :, :SIDE, :SIDE] = 0.9
    masks[0, 0, :16, :16] = True
    masks[1, 0, 16:32, 16:32] = True
    return LabelledImages(
        pixels_B3HW=pixels,
        sizes_hw=[(SIDE, SIDE)] * 2,
        masks=list(masks),
        labels=[torch.tensor([0]), torch.tensor([1])],
    )


def drawn_tiles(path):
    """[row][column] the mean colour of each quarter (2, 2, 3) of a tile, without its edges."""
    sheet = np.asarray(Image.open(path)).astype(float)
    half, margin = SIDE_PX // 2, 30
    rows = []
    for top in range(TITLE_PX, sheet.shape[0], SIDE_PX + GAP_PX):
        tiles = [
            sheet[top : top + SIDE_PX, left : left + SIDE_PX]
            for left in range(0, sheet.shape[1], SIDE_PX + GAP_PX)
        ]
        quarters = [tile.reshape(2, half, 2, half, 3)[:, margin:-margin, :, margin:-margin] for tile in tiles]
        rows.append([quarter.mean(axis=(1, 3)) for quarter in quarters])
    return rows


def test_draw_pairs__shows_pixels_and_labels_before_and_after(tmp_path):
    before = two_images()
    after = paste_instances(before, ArpOptions())
    draw_pairs(before, after, CLASSES, tmp_path / "pictures/arp.png")
    dark, light = drawn_tiles(tmp_path / "pictures/arp.png")
    assert len(dark) == len(light) == 4
    black, white = 0, round(0.9 * 255)
    coin, leaf = (0.45 * np.array(colour) for colour in COLOURS[:2])
    np.testing.assert_allclose(dark[0][..., 0], [[black, black], [black, black]], atol=1)
    np.testing.assert_allclose(dark[2][..., 0], [[black, black], [black, white]], atol=1)
    np.testing.assert_allclose(light[2][..., 0], [[black, white], [white, white]], atol=1)
    np.testing.assert_allclose(dark[1][0, 0], coin, atol=1)
    np.testing.assert_allclose(dark[1][1, 1], [black] * 3, atol=1)
    np.testing.assert_allclose(dark[3][0, 0], coin, atol=1)
    np.testing.assert_allclose(dark[3][1, 1], 0.55 * white + leaf, atol=1)
    np.testing.assert_allclose(light[3][0, 0], coin, atol=1)


def test_draw_pairs__images_of_other_shapes_and_without_instances__are_drawn(tmp_path):
    batch = LabelledImages(
        pixels_B3HW=torch.rand(2, 3, 20, 40),
        sizes_hw=[(20, 40), (10, 10)],
        masks=[torch.zeros(0, 20, 40, dtype=torch.bool)] * 2,
        labels=[torch.zeros(0, dtype=torch.int64)] * 2,
    )
    draw_pairs(batch, batch, CLASSES, tmp_path / "arp.png")
    expected = TITLE_PX + SIDE_PX // 2 + GAP_PX + SIDE_PX + GAP_PX
    assert Image.open(tmp_path / "arp.png").size == (4 * (SIDE_PX + GAP_PX), expected)
