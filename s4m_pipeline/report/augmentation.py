"""The picture of both branches: what becomes of images and labels on their way into the student's network.

Everything is done by the parts that the training itself is built from; here they are watched.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from mmengine.runner import Runner
from PIL import Image

from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.engine.seeding import SeedEachStep
from s4m_pipeline.engine.two_branches import TwoBranchDataset
from s4m_pipeline.options.student import StudentOptions
from s4m_pipeline.painting import paint
from s4m_pipeline.registry import register_all
from s4m_pipeline.report.sheets import Section, fitted, sheet, stacked
from s4m_pipeline.student.arp import LabelledImages, draw_placements, paste_instances
from s4m_pipeline.student.build import student_dataloader, student_model
from s4m_pipeline.student.labels import Labels


@dataclass(frozen=True, kw_only=True)
class Step:
    """The images of a training step: labelled ones first, then unlabelled ones."""

    files: list[Image.Image]
    """Pictures of the images as they are in their files, with their annotations or pseudo-labels."""
    loaded: LabelledImages
    """The unlabelled images after `train_pipeline`."""
    pasted: LabelledImages
    """The unlabelled images after ARP."""
    inputs: LabelledImages
    """All images as the network gets them, in colours of [0, 1]."""
    pairs: list[tuple[int, int]]
    """Unlabelled images that exchanged instances, by their number among the unlabelled ones."""

    @property
    def num_labelled(self) -> int:
        return len(self.inputs.sizes_hw) - len(self.loaded.sizes_hw)

    def unlabelled_order(self) -> list[int]:
        """The unlabelled images, partners after each other, and those without one at the end."""
        paired = [image for pair in self.pairs for image in pair]
        return paired + [i for i in range(len(self.loaded.sizes_hw)) if i not in paired]


def first_step(
    student: StudentOptions,
    parts: Mapping[str, Any],
    train: CocoData,
    labels: Labels | None,
    batch_sizes: tuple[int, int],
) -> Step:
    """The first step of a student's training, if `batch_sizes` are those of its first rank.

    With others, the images and their geometry are those that the training begins with; partners and colours
    are not.

    Args:
        parts: the whole config as plain values.
        train, labels, batch_sizes: as for `student_dataloader`.
    """
    register_all()

    from mmdet.registry import MODELS

    student = dataclasses.replace(student, workers=0)
    loader = Runner.build_dataloader(student_dataloader(student, parts, train, labels, batch_sizes))
    if labels is not None:
        loader.sampler.generation = labels.generation.number
    files = _watch_files(loader.dataset, train.class_names)
    batch = next(iter(loader))
    samples = [sample.metainfo for sample in batch["data_samples"]]
    preprocessor = MODELS.build(student_model(student, parts, len(train.categories))["data_preprocessor"])
    loaded = preprocessor.unlabeled_images(copy.deepcopy(batch))
    _seed_first_step(student.seed)
    placements = draw_placements(loaded, student.arp)
    _seed_first_step(student.seed)
    pasted = paste_instances(loaded, student.arp)
    _seed_first_step(student.seed)
    made = preprocessor(batch, training=True)
    return Step(
        files=[files[sample["branch"]][sample["img_id"]] for sample in samples],
        loaded=loaded,
        pasted=pasted,
        inputs=preprocessor.labelled_images(made["inputs"], made["data_samples"]),
        pairs=sorted({(min(p.source, p.target), max(p.source, p.target)) for p in placements}),
    )


def _seed_first_step(seed: int) -> None:
    SeedEachStep(seed).before_train_iter(SimpleNamespace(iter=0, rank=0), 0)


def _watch_files(dataset: TwoBranchDataset, class_names: Sequence[str]) -> dict[str, dict[int, Image.Image]]:
    """By branch and image id, pictures of the files that will have been loaded."""
    from mmdet.datasets.transforms import LoadAnnotations

    from s4m_pipeline.engine.pseudo_labels import LoadPseudoLabels

    watchers = {branch: _Watcher(class_names) for branch in dataset.branches}
    for branch, images in dataset.branches.items():
        transforms = images.dataset.pipeline.transforms
        kinds = [isinstance(transform, LoadAnnotations | LoadPseudoLabels) for transform in transforms]
        transforms.insert(kinds.index(True) + 1, watchers[branch])
    return {branch: watcher.pictures for branch, watcher in watchers.items()}


class _Watcher:
    """Stands in a pipeline after the labels, and draws what passes."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = class_names
        self.pictures: dict[int, Image.Image] = {}

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        used = ~results["gt_ignore_flags"]
        masks = results["gt_masks"].to_ndarray()[used].astype(bool)
        labels = results["gt_bboxes_labels"][used].tolist()
        self.pictures[results["img_id"]] = _tile(results["img"], masks, labels, self.class_names)
        return results


def draw_augmentation(
    step: Step, class_names: Sequence[str], transforms: Sequence[str], count: int
) -> Image.Image:
    """Up to `count` images of each branch, from the file to the network's input.

    Args:
        transforms: names of those of `train_pipeline` between loading and packing.
    """
    between = ", ".join(transforms)
    labelled = [
        [step.files[i], _image_tile(step.inputs, i, class_names)]
        for i in range(min(count, step.num_labelled))
    ]
    halves = ["file, annotations", "after train_pipeline: what the network gets"]
    rows = [[*row, *following] for row, following in _by_two(labelled)]
    sections = [Section("Labelled branch, of teacher and student", between, sheet(rows, 2 * halves))]
    if step.loaded.sizes_hw:
        titles = [
            "file, its labels",
            "after train_pipeline",
            "after ARP",
            "strong colours: what the network gets",
        ]
        rows = [_unlabelled_row(step, image, class_names) for image in step.unlabelled_order()[:count]]
        note = f"{between}; ARP with the image above or below; jitter, greyscale, blur"
        sections.append(Section("Unlabelled branch, of the student", note, sheet(rows, titles)))
    else:
        sections.append(Section("Unlabelled branch", "There are no pseudo-labels to be shown.", None))
    return stacked(sections)


def draw_pairs(step: Step, class_names: Sequence[str]) -> Image.Image:
    """A row for every two unlabelled images, each before and after ARP; partners first."""
    tiles = [
        [_image_tile(images, i, class_names) for images in (step.loaded, step.pasted)]
        for i in step.unlabelled_order()
    ]
    return sheet([[*row, *other] for row, other in _by_two(tiles)], 2 * ["before ARP", "after ARP"])


def _by_two(rows: Sequence[list[Image.Image]]) -> list[tuple[list[Image.Image], list[Image.Image]]]:
    return [(rows[i], rows[i + 1] if i + 1 < len(rows) else []) for i in range(0, len(rows), 2)]


def _unlabelled_row(step: Step, image: int, class_names: Sequence[str]) -> list[Image.Image]:
    views = ((step.loaded, image), (step.pasted, image), (step.inputs, step.num_labelled + image))
    return [
        step.files[step.num_labelled + image],
        *(_image_tile(images, place, class_names) for images, place in views),
    ]


def _image_tile(batch: LabelledImages, image: int, class_names: Sequence[str]) -> Image.Image:
    """The valid area of an image of a batch."""
    height, width = batch.sizes_hw[image]
    valid = (batch.pixels_B3HW[image, :, :height, :width] * 255).round().byte()
    masks = batch.masks[image][:, :height, :width].cpu().numpy()
    return _tile(valid.permute(1, 2, 0).cpu().numpy(), masks, batch.labels[image].tolist(), class_names)


def _tile(
    photo: np.ndarray, masks: np.ndarray, labels: Sequence[int], class_names: Sequence[str]
) -> Image.Image:
    """Outlines alone, in a colour for each class: a tint would hide what became of the photo's colours."""
    return paint(fitted(photo), masks, [class_names[label] for label in labels], labels, lines_only=True)
