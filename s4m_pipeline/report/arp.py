"""The picture of ARP: images of a step before and after instances were exchanged."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner
from PIL import Image

from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.options.student import ArpOptions, StudentOptions
from s4m_pipeline.registry import register_all
from s4m_pipeline.report.sheets import fitted, overlay, sheet
from s4m_pipeline.student.arp import LabelledImages, paste_instances
from s4m_pipeline.student.build import student_dataloader, student_model
from s4m_pipeline.student.labels import Labels


def load_pairs(
    student: StudentOptions, parts: Mapping[str, Any], train: CocoData, labels: Labels | None, num_pairs: int
) -> LabelledImages:
    """The first 2 `num_pairs` unlabelled images of a training, as its loader gives them, before ARP.

    Args:
        parts: the whole config as plain values.
        train, labels: as for `student_dataloader`.
    """
    register_all()

    from mmdet.registry import MODELS

    student = dataclasses.replace(student, workers=0)
    loader = Runner.build_dataloader(student_dataloader(student, parts, train, labels, (1, 2 * num_pairs)))
    if labels is not None:
        loader.sampler.generation = labels.generation.number
    preprocessor = MODELS.build(student_model(student, parts, len(train.categories))["data_preprocessor"])
    images: LabelledImages = preprocessor.unlabeled_images(next(iter(loader)))
    return images


def paste_pairs(images: LabelledImages, options: ArpOptions, seed: int) -> LabelledImages:
    """ARP between each two images that follow one another, whatever share of a batch it takes in training."""
    torch.manual_seed(seed)
    options = dataclasses.replace(options, fraction=1.0)
    pasted = [
        paste_instances(_part(images, slice(first, first + 2)), options)
        for first in range(0, len(images.sizes_hw), 2)
    ]
    return LabelledImages(
        pixels_B3HW=torch.cat([pair.pixels_B3HW for pair in pasted]),
        sizes_hw=images.sizes_hw,
        masks=[masks for pair in pasted for masks in pair.masks],
        labels=[labels for pair in pasted for labels in pair.labels],
    )


def _part(images: LabelledImages, chosen: slice) -> LabelledImages:
    return LabelledImages(
        pixels_B3HW=images.pixels_B3HW[chosen],
        sizes_hw=images.sizes_hw[chosen],
        masks=images.masks[chosen],
        labels=images.labels[chosen],
    )


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
