"""ARP pixel by pixel in numpy: the definition that the batch step is held to."""

import math
from fractions import Fraction

import numpy as np
import torch


def paste_slowly(batch, options, seed):
    """What `paste_instances` must return after `torch.manual_seed(seed)`: pixels, masks, labels and what is
    ignored, as numpy."""
    torch.manual_seed(seed)
    pixels = [image.numpy() for image in batch.pixels_B3HW]
    masks = [list(each.numpy()) for each in batch.masks]
    labels = [each.tolist() for each in batch.labels]
    half = len(pixels) * Fraction(str(options.fraction)) // 2
    order, draws = torch.randperm(len(pixels))[: 2 * half].tolist(), torch.rand(2 * half, 3).tolist()
    ignored = [None if each is None else each.numpy() for each in batch.ignored]
    results = {i: (pixels[i].copy(), masks[i], labels[i], ignored[i]) for i in range(len(pixels))}
    for turn, source in enumerate(order):
        target = order[(turn + half) % (2 * half)]
        valid = batch.sizes_hw[source]
        kept = [k for k, mask in enumerate(masks[source]) if area(mask, valid) >= max(1, options.min_area_px)]
        if not kept:
            continue
        box = union_box([masks[source][k] for k in kept], valid)
        factor = options.scale_range[0] + (options.scale_range[1] - options.scale_range[0]) * draws[turn][0]
        new, old = pixels[target].copy(), [mask.copy() for mask in masks[target]]
        region = None if ignored[target] is None else ignored[target].copy()
        pasted = [np.zeros_like(masks[source][k]) for k in kept]
        rows = source_rows(box[0], factor, draws[turn][1], batch.sizes_hw[target][0], options.placement)
        columns = source_rows(box[1], factor, draws[turn][2], batch.sizes_hw[target][1], options.placement)
        for y, row in rows.items():
            for x, column in columns.items():
                at = math.floor(row + Fraction(1, 2)), math.floor(column + Fraction(1, 2))
                hit = [masks[source][k][at] for k in kept]
                for mask, is_hit in zip(pasted, hit, strict=True):
                    mask[y, x] = is_hit
                if any(hit):
                    new[:, y, x] = bilinear(pixels[source], row, column, box)
                    for mask in old if region is None else [*old, region]:
                        mask[y, x] = False
        every = [*zip(old, labels[target], strict=True)]
        every += zip(pasted, [labels[source][k] for k in kept], strict=True)
        every = [(mask, label) for mask, label in every if mask.any()]
        if rows and columns:
            results[target] = (new, [mask for mask, _ in every], [label for _, label in every], region)
    return [results[i] for i in range(len(pixels))]


def area(mask, valid):
    return int(mask[: valid[0], : valid[1]].sum())


def union_box(masks, valid):
    """((first row, last row + 1), (first column, last column + 1))."""
    places = np.argwhere(np.any(masks, axis=0)[: valid[0], : valid[1]])
    return [(int(axis.min()), int(axis.max()) + 1) for axis in places.T]


def source_rows(span, factor, uniform, valid, placement):
    """For each row of the target's valid area that the box reaches: where its center lies in the source."""
    length = span[1] - span[0]
    scaled = max(1, round(length * factor))
    if placement == "same":
        start = span[0] + math.floor(Fraction(length - scaled, 2))
    else:
        choices = range(min(valid - scaled, 0), max(valid - scaled, 0) + 1)
        start = choices[int(uniform * len(choices))]
    return {
        row: span[0] + Fraction(2 * (row - start) + 1, 2) * Fraction(length, scaled) - Fraction(1, 2)
        for row in range(max(start, 0), min(start + scaled, valid))
    }


def bilinear(image, row, column, box):
    """(3,) value between the pixels of the box; beyond its outer pixels' centers, those."""
    (top, bottom), (left, right) = box
    row, column = float(min(max(row, top), bottom - 1)), float(min(max(column, left), right - 1))
    y, x = int(row), int(column)
    below, beside = min(y + 1, bottom - 1), min(x + 1, right - 1)
    upper = image[:, y, x] * (1 - (column - x)) + image[:, y, beside] * (column - x)
    lower = image[:, below, x] * (1 - (column - x)) + image[:, below, beside] * (column - x)
    return upper * (1 - (row - y)) + lower * (row - y)
