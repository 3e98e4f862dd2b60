"""Small batches of rectangles for the tests of ARP: every instance has a label and a color of its own."""

import numpy as np
import torch

from s4m_pipeline.student.arp import LabeledImages

PADDED_HW = (14, 18)


def painted_batch(seed, num_images, max_instances=4, overlapping=False, sizes_hw=None):
    """Disjoint (or overlapping) rectangles painted in `color_of(label)`; image i's ground in that of -1 - i.

    Padding is 0 in the pixels; some masks reach into it.
    """
    rng = np.random.default_rng(seed)
    height, width = PADDED_HW
    if sizes_hw is None:
        sizes_hw = [
            (int(rng.integers(6, height + 1)), int(rng.integers(6, width + 1))) for _ in range(num_images)
        ]
    pixels = torch.zeros(num_images, 3, height, width)
    all_masks, all_labels, all_ignored = [], [], []
    for image, valid in enumerate(sizes_hw):
        ids = np.full(PADDED_HW, -1)
        masks = []
        for number in range(int(rng.integers(0, max_instances + 1))):
            top, left = int(rng.integers(0, height - 1)), int(rng.integers(0, width - 1))
            box = slice(top, top + int(rng.integers(1, 7))), slice(left, left + int(rng.integers(1, 7)))
            ids[box] = number
            mask = np.zeros(PADDED_HW, bool)
            mask[box] = True
            masks.append(mask)
        if not overlapping:
            masks = [ids == number for number in range(len(masks))]
        labels = torch.arange(len(masks)) + 100 * (image + 1)
        inside = pixels[image, :, : valid[0], : valid[1]]
        inside[:] = color_of(-1 - image)
        for mask, label in zip(masks, labels.tolist(), strict=True):
            inside[:, torch.from_numpy(mask)[: valid[0], : valid[1]]] = color_of(label)[:, 0]
        all_masks.append(torch.from_numpy(np.array(masks, bool).reshape(-1, *PADDED_HW)))
        all_labels.append(labels)
        all_ignored.append(torch.from_numpy(rng.random(PADDED_HW) < 0.5) if image % 3 else None)
    return LabeledImages(
        pixels_B3HW=pixels,
        sizes_hw=sizes_hw,
        masks=all_masks,
        labels=all_labels,
        weights=[weights_of(labels) for labels in all_labels],
        ignored=all_ignored,
    )


def weights_of(labels):
    """(N, 2) weights of their own for each label, so that one that went astray shows."""
    return torch.stack([labels / 7, labels / 11], dim=1)


def color_of(label):
    """(3, 1, 1) a color of its own for each label; none is black."""
    return 0.1 + 0.9 * torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(1000 + label))
