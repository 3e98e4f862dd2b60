"""The picture of ARP: images of a step before and after instances were exchanged."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from s4m_pipeline.report.sheets import fitted, overlay, sheet
from s4m_pipeline.student.arp import LabelledImages


def draw_pairs(before: LabelledImages, after: LabelledImages, class_names: Sequence[str], path: Path) -> None:
    """Write a PNG with a row for each image: its valid area before and after, plain and with its masks.

    Each class has its colour. Rows are in the order of the batch: partners stand below each other where the
    batch is made of pairs.
    """
    rows = [
        [*_tiles(before, image, class_names), *_tiles(after, image, class_names)]
        for image in range(len(before.sizes_hw))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, ["before", "its labels", "after ARP", "its labels"]).save(path)


def _tiles(batch: LabelledImages, image: int, class_names: Sequence[str]) -> list[Image.Image]:
    height, width = batch.sizes_hw[image]
    valid = batch.pixels_B3HW[image, :, :height, :width]
    photo = fitted((valid * 255).round().byte().permute(1, 2, 0).cpu().numpy())
    labels = batch.labels[image].tolist()
    names = [class_names[label] for label in labels]
    return [
        Image.fromarray(photo),
        overlay(photo, batch.masks[image][:, :height, :width], names, labels),
    ]
