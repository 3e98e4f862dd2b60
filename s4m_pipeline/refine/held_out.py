"""Quality of a generation on images that are labelled by hand: what tells a better teacher from a worse one.

Each shard labels its share of the validation images before its own, with the same teacher, SAM and recipe,
and keeps the counts only. The points that are drawn are the same in every generation, so that figures
differ by the teacher alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache import sealed
from cache.errors import DamagedError, disk_error
from cache.generation import Generation
from cache.masks import Masks
from cache.sharding import ShardSpec
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.errors import UserError
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.evaluation.pseudo_label_quality import packed_iou
from s4m_pipeline.evaluation.tally import ClassTallies, Tally
from s4m_pipeline.refine.labeller import Labeller
from s4m_pipeline.refine.photos import (
    PhotoFiles,
    Unreadable,
    batches_by_size,
    list_unreadable,
    load_photos,
    readable,
)

DRAWS_OF_GENERATION = 0
"""What the labeller is told as its generation's number, here always."""


def held_out_images(held_out: CocoData, shard: ShardSpec) -> list[Any]:
    """A shard's share of the validation images, as it has of the unlabelled ones."""
    chosen = set(shard.assigned(np.array([image.id for image in held_out.images], np.int64)).tolist())
    return [image for image in held_out.images if image.id in chosen]


def measure_share(
    held_out: CocoData, files: PhotoFiles, labeller: Labeller, *, workers: int, stop: Callable[[], bool]
) -> ClassTallies | None:
    """Label some validation images and count what is right; None if asked to stop.

    Raises:
        UserError: if an image is unreadable.
    """
    tallies = ClassTallies.empty(len(held_out.categories))
    images = {image.id: image for image in held_out.images}
    unreadable: list[Unreadable] = []
    photos = readable(load_photos(files, workers, pin_memory=labeller.on_gpu), unreadable.append)
    for batch in batches_by_size(photos, labeller.batch_size, labeller.divisor_px):
        if stop():
            return None
        for labels in labeller.label_and_fetch(batch):
            found = labels.pack().instances
            truth = truth_masks(held_out, images[labels.image_id])
            objects = Masks.from_dense(truth.masks)
            tallies.add(
                found.labels, truth.labels, packed_iou(found.labels, found.masks, truth.labels, objects)
            )
    if unreadable:
        raise UserError(
            f"{len(unreadable)} validation images cannot be used:\n"
            f"{list_unreadable((image.file_name, image.reason) for image in unreadable)}\n"
            "Mend these files: generations are compared on all of them."
        )
    return tallies


def write_share(generation: Generation, shard: ShardSpec, held_out: CocoData, tallies: ClassTallies) -> None:
    """Keep a shard's counts beside its parts.

    Raises:
        CacheError: if the disk refuses.
    """
    path = _path(generation, shard)
    try:
        sealed.write(path, {"data": held_out.sha256, "tallies": tallies.rows()})
    except OSError as error:
        raise disk_error(path, 4096, error) from error


def read_share(generation: Generation, shard: ShardSpec, held_out: CocoData) -> ClassTallies | None:
    """A shard's counts; None if they were not made yet, or by another validation file, or are damaged."""
    try:
        content = sealed.read(_path(generation, shard))
    except (FileNotFoundError, DamagedError):
        return None
    return ClassTallies.from_rows(content["tallies"]) if content["data"] == held_out.sha256 else None


def held_out_figures(tallies: ClassTallies, classes: Sequence[str], num_images: int) -> dict[str, Any]:
    """PQ, SQ, CA and recall in percent, and PQ of each class; None where there is nothing to divide by."""

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 2)

    total: Tally = tallies.total
    return {
        "images": num_images,
        "instances": total.predictions,
        "objects": total.objects,
        "PQ": rounded(total.panoptic_quality),
        "SQ": rounded(total.segmentation_quality),
        "CA": rounded(total.class_accuracy),
        "recall": rounded(total.recall),
        **{
            f"PQ, {name}": rounded(tally.panoptic_quality)
            for name, tally in zip(classes, tallies.by_class, strict=True)
        },
    }


def _path(generation: Generation, shard: ShardSpec) -> Path:
    return generation.path / f"held-out-{shard.index:04d}.json"
