"""What the student's training is built from: our settings turned into configs of network and loader."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict

from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.engine.parts import (
    coco_dataset,
    model_config,
    pseudo_label_dataset,
    two_branch_dataloader,
)
from s4m_pipeline.options.student import StudentOptions
from s4m_pipeline.student.labels import Labels


def student_model(student: StudentOptions, parts: Mapping[str, Any], num_classes: int) -> ConfigDict:
    """Config of the network that learns from both branches, with its preprocessor.

    Args:
        parts: the whole config as plain values.
    """
    model = model_config(parts["model"], num_classes, student.init_from)
    model.update(
        type="StudentMask2Former",
        unlabeled_weight=student.unlabeled_weight,
        unlabeled_background=student.unlabeled_background,
    )
    model["data_preprocessor"].update(
        type="StudentPreprocessor", arp=student.arp, photometric=student.photometric
    )
    return model


def student_dataloader(
    student: StudentOptions,
    parts: Mapping[str, Any],
    train: CocoData,
    labels: Labels | None,
    batch_sizes: tuple[int, int],
) -> dict[str, Any]:
    """Config of the loader of both branches; its sampler is to be told the generation.

    Args:
        parts: the whole config as plain values.
        train: the labelled images.
        labels: None: the unlabelled branch has the labelled images, too (`student.source`).
        batch_sizes: labelled and unlabelled images of a step, on this rank.
    """
    labelled = unlabeled = coco_dataset(train.json_path, train.images_root, parts["train_pipeline"])
    if labels is not None:
        unlabeled = pseudo_label_dataset(labels, train.class_names, parts["train_pipeline"])
    return two_branch_dataloader(
        labelled, unlabeled, batch_sizes=batch_sizes, workers=student.workers, seed=student.seed
    )
