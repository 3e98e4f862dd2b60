"""Draw the images of both branches after each augmentation of the student's training."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from mmengine.runner import Runner
from PIL import Image

from s4m_pipeline.config.student import StudentOptions
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.student.arp import LabeledImages, draw_placements, paste_instances
from s4m_pipeline.student.build import student_dataloader, student_model
from s4m_pipeline.student.labels import Labels, TrueLabels
from s4m_pipeline.student.two_branches import TwoBranchDataset
from s4m_pipeline.train.hooks import SeedEachStep
from s4m_pipeline.visual.painting import paint
from s4m_pipeline.visual.sheets import Section, fitted, sheet, stacked


@dataclass(frozen=True, kw_only=True)
class FirstBatch:
    """The images of the first training iteration: labeled ones first, then unlabeled ones."""

    files: list[Image.Image]
    """Pictures of the unmodified images with their annotations or pseudo-labels."""
    loaded: LabeledImages
    """The unlabeled images after `train_pipeline`."""
    pasted: LabeledImages
    """The unlabeled images after ARP (augmentation with refined pseudo-labels)."""
    inputs: LabeledImages
    """All images as passed to the network, in colors of [0, 1]."""
    pairs: list[tuple[int, int]]
    """Unlabeled images that exchanged instances, by their index among the unlabeled ones."""

    @property
    def num_labeled(self) -> int:
        return len(self.inputs.sizes_hw) - len(self.loaded.sizes_hw)

    def unlabeled_order(self) -> list[int]:
        """Indices of the unlabeled images: pairs first, then those without a partner."""
        paired = [image for pair in self.pairs for image in pair]
        return paired + [i for i in range(len(self.loaded.sizes_hw)) if i not in paired]


def first_batch(
    student: StudentOptions,
    config: Mapping[str, Any],
    train: CocoData,
    labels: Labels | TrueLabels | None,
    batch_sizes: tuple[int, int],
) -> FirstBatch:
    """The first batch of a student's training, exactly if `batch_sizes` are those of its first rank.

    With different sizes, images and geometry are the same, but not ARP partners and colors.

    Args:
        config: the whole config as plain values.
        train, labels, batch_sizes: as for `student_dataloader`.
    """
    register_all()

    from mmdet.registry import MODELS

    from s4m_pipeline.student.preprocessor import labeled_images

    student = student.model_copy(update={"workers": 0})
    loader = Runner.build_dataloader(student_dataloader(student, config, train, labels, batch_sizes))
    if isinstance(labels, Labels):
        loader.sampler.generation = labels.generation.number
    files = _record_files(loader.dataset, train.class_names)
    batch = next(iter(loader))
    samples = [sample.metainfo for sample in batch["data_samples"]]
    preprocessor = MODELS.build(student_model(student, config, len(train.categories))["data_preprocessor"])
    loaded = preprocessor.unlabeled_images(copy.deepcopy(batch))
    _seed_first_iteration(student.seed)
    placements = draw_placements(loaded, student.arp)
    _seed_first_iteration(student.seed)
    pasted = paste_instances(loaded, student.arp)
    _seed_first_iteration(student.seed)
    made = preprocessor(batch, training=True)
    pixels = made["inputs"] * preprocessor.std + preprocessor.mean
    return FirstBatch(
        files=[files[sample["branch"]][sample["img_id"]] for sample in samples],
        loaded=loaded,
        pasted=pasted,
        inputs=labeled_images(pixels, made["data_samples"]),
        pairs=sorted({(min(p.source, p.target), max(p.source, p.target)) for p in placements}),
    )


def _seed_first_iteration(seed: int) -> None:
    SeedEachStep(seed).before_train_iter(SimpleNamespace(iter=0, rank=0), 0)


def _record_files(dataset: TwoBranchDataset, class_names: Sequence[str]) -> dict[str, dict[int, Image.Image]]:
    """Dicts by branch and image id that are filled with pictures of the files when they are loaded."""
    from mmdet.datasets.transforms import LoadAnnotations

    from s4m_pipeline.data.dataset import LoadInstances
    from s4m_pipeline.student.pseudo_labels import LoadPseudoLabels

    loads = LoadInstances | LoadAnnotations | LoadPseudoLabels

    recorders = {branch: _Recorder(class_names) for branch in dataset.branches}
    for branch, images in dataset.branches.items():
        transforms = images.dataset.pipeline.transforms
        kinds = [isinstance(transform, loads) for transform in transforms]
        transforms.insert(kinds.index(True) + 1, recorders[branch])
    return {branch: recorder.pictures for branch, recorder in recorders.items()}


class _Recorder:
    """A transform that draws the loaded image and labels, and returns them unchanged."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = class_names
        self.pictures: dict[int, Image.Image] = {}

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        used = ~results["gt_ignore_flags"]
        masks = results["gt_masks"].to_ndarray()[used].astype(bool)
        labels = results["gt_bboxes_labels"][used]
        labels = (labels if labels.ndim == 1 else labels[:, 0].astype(int)).tolist()  # the others are scores
        self.pictures[results["img_id"]] = _tile(results["img"], masks, labels, self.class_names)
        return results


def draw_augmentation(
    batch: FirstBatch, class_names: Sequence[str], transforms: Sequence[str], count: int
) -> Image.Image:
    """Up to `count` images of each branch, from the file to the network's input.

    Args:
        transforms: names of the transforms of `train_pipeline` between loading and packing.
    """
    pipeline = ", ".join(transforms)
    num_labeled = min(count, batch.num_labeled)
    tiles = [(batch.files[i], _image_tile(batch.inputs, i, class_names)) for i in range(num_labeled)]
    rows = [[tile for pair in tiles[i : i + 2] for tile in pair] for i in range(0, num_labeled, 2)]
    titles = 2 * ["file with annotations", "after train_pipeline (network input)"]
    title = "Labeled branch; the teacher's images, too, but for teacher.augmented_fraction"
    sections = [Section(title, pipeline, sheet(rows, titles))]
    if batch.loaded.sizes_hw:
        titles = [
            "file with pseudo-labels",
            "after train_pipeline",
            "after ARP",
            "after photometric (network input)",
        ]
        rows = [_unlabeled_row(batch, image, class_names) for image in batch.unlabeled_order()[:count]]
        note = f"{pipeline}; ARP with the image above or below; jitter, grayscale, blur"
        sections.append(Section("Unlabeled branch of the student", note, sheet(rows, titles)))
    else:
        sections.append(Section("Unlabeled branch", "There are no pseudo-labels.", None))
    return stacked(sections)


def _unlabeled_row(batch: FirstBatch, image: int, class_names: Sequence[str]) -> list[Image.Image]:
    views = ((batch.loaded, image), (batch.pasted, image), (batch.inputs, batch.num_labeled + image))
    return [
        batch.files[batch.num_labeled + image],
        *(_image_tile(images, index, class_names) for images, index in views),
    ]


def _image_tile(images: LabeledImages, index: int, class_names: Sequence[str]) -> Image.Image:
    """An image of a batch without its padding."""
    height, width = images.sizes_hw[index]
    valid = (images.pixels_B3HW[index, :3, :height, :width] * 255).round().byte()
    masks = images.masks[index][:, :height, :width].cpu().numpy()
    return _tile(valid.permute(1, 2, 0).cpu().numpy(), masks, images.labels[index].tolist(), class_names)


def _tile(
    photo: np.ndarray, masks: np.ndarray, labels: Sequence[int], class_names: Sequence[str]
) -> Image.Image:
    """Outlines only, in a color per class: a tint would hide the photometric augmentation."""
    return paint(fitted(photo), masks, [class_names[label] for label in labels], labels, lines_only=True)
