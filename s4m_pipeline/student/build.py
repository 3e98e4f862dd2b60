"""Settings turned into configs: both networks with their augmentation, and the student's loader."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import ConfigDict

from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.student import ArpOptions, PhotometricOptions, StudentOptions
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.loaders import coco_dataset, loader_processes
from s4m_pipeline.models.load import model_config
from s4m_pipeline.student.labels import Labels, TrueLabels
from s4m_pipeline.student.two_branches import TwoBranchDataset, TwoBranchSampler

PRELOAD_BYTES = 256 << 20
"""Size of the packed masks that each loading process keeps in memory: all of Cityscapes' (0.12 GB)."""


def student_model(student: StudentOptions, config: Mapping[str, Any], num_classes: int) -> ConfigDict:
    """Config of the network that learns from both branches, and of its preprocessor.

    Args:
        config: the whole config as plain values.
    """
    from s4m_pipeline.models.student import StudentMask2Former

    model = model_config(config["model"], num_classes, student.init_from)
    model.update(
        type=StudentMask2Former,
        unlabeled_weight=student.unlabeled_weight,
        unlabeled_background=student.unlabeled_background,
        outline_weight=student.outline_weight,
        outline_px=student.outline_px,
    )
    _augment(model, student.arp, student.photometric)
    return model


def teacher_model(options: Options, config: Mapping[str, Any], num_classes: int) -> ConfigDict:
    """Config of the teacher's network, without what distillation adds, and of its preprocessor.

    Args:
        config: the whole config as plain values.
    """
    model = model_config(config["model"], num_classes, options.teacher.init_from)
    if fraction := options.teacher.augmented_fraction:
        student = options.student
        arp = student.arp if student else ArpOptions()
        photometric = student.photometric if student else PhotometricOptions()
        _augment(model, arp, photometric, labeled=fraction)
    return model


def _augment(
    model: ConfigDict, arp: ArpOptions, photometric: PhotometricOptions, labeled: float = 0.0
) -> None:
    """Let the preprocessor augment the unlabeled images, and a fraction of the labeled ones."""
    from s4m_pipeline.student.preprocessor import AugmentingPreprocessor

    model["data_preprocessor"].update(
        type=AugmentingPreprocessor, arp=arp, photometric=photometric, labeled=labeled
    )


def student_dataloader(
    student: StudentOptions,
    config: Mapping[str, Any],
    train: CocoData,
    labels: Labels | TrueLabels | None,
    batch_sizes: tuple[int, int],
) -> dict[str, Any]:
    """Config of the loader of both branches; the generation is set on its sampler.

    Args:
        config: the whole config as plain values.
        train: the labeled images.
        labels: of the unlabeled images; None: both branches have the labeled images (`student.source`).
        batch_sizes: labeled and unlabeled images of a batch, on this rank.
    """
    labeled = unlabeled = coco_dataset(train.json_path, train.images_root, config["train_pipeline"])
    if isinstance(labels, TrueLabels):
        unlabeled = coco_dataset(labels.annotations, labels.images_root, config["train_pipeline"])
        unlabeled["only"] = str(labels.unlabeled.source)
    elif labels is not None:
        unlabeled = pseudo_label_dataset(labels, train.class_names, config["train_pipeline"])
        unlabeled["score_weights"] = student.score_weights
        if student.match_counts:
            unlabeled["objects_per_image"] = _objects_per_image(train)
    return two_branch_dataloader(
        labeled, unlabeled, batch_sizes=batch_sizes, workers=student.workers, seed=student.seed
    )


def _objects_per_image(train: CocoData) -> list[float]:
    """How many objects of each class a labeled image shows on average."""
    labels = {category.id: category.label for category in train.categories}
    shown = [labels[a["category_id"]] for image in train.images for a in train.instances(image.id)]
    return [shown.count(label) / len(train.images) for label in range(len(labels))]


def pseudo_label_dataset(
    labels: Labels, classes: Sequence[str], pipeline: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Config of `PseudoLabeledImages`: the unlabeled images, and the labeled images' transforms."""
    from s4m_pipeline.student.pseudo_labels import PseudoLabeledImages

    unlabeled = labels.unlabeled
    return {
        "type": PseudoLabeledImages,
        "source": str(unlabeled.source),
        "images": str(unlabeled.images_root.absolute()),
        "cache": str(labels.root.absolute()),
        "classes": list(classes),
        "pipeline": list(pipeline),
        "preload_bytes": PRELOAD_BYTES,
    }


def two_branch_dataloader(
    labeled: Mapping[str, Any],
    unlabeled: Mapping[str, Any],
    *,
    batch_sizes: tuple[int, int],
    workers: int,
    seed: int,
) -> dict[str, Any]:
    """Config of an endless loader of batches of labeled and unlabeled images; see `train_dataloader`.

    Args:
        batch_sizes: labeled and unlabeled images of a batch, on this rank.
    """
    from s4m_pipeline.data.dataset import collate_instances

    return {
        "dataset": {"type": TwoBranchDataset, "labeled": labeled, "unlabeled": unlabeled},
        "sampler": {
            "type": TwoBranchSampler,
            "seed": seed,
            "labeled": batch_sizes[0],
            "unlabeled": batch_sizes[1],
        },
        "batch_size": sum(batch_sizes),
        "collate_fn": {"type": collate_instances},
        **loader_processes(workers),
    }
