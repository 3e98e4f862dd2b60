"""Labels measured on the validation images: the teacher's own masks, and those from each kind of prompt.

The validation images are divided among the shards of a generation. They are labeled before all others, with
the same teacher, SAM and recipe, and only counts are kept. The points drawn are the same in every
generation, so that figures differ by the teacher alone.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s4m_cache import sealed
from s4m_cache.atomic import discard_leftovers
from s4m_cache.errors import DamagedError, LockedError, disk_error
from s4m_cache.generation import Generation
from s4m_cache.sharding import ShardSpec
from s4m_cache.storage import storage
from s4m_pipeline.config.groups import PromptType, Recipe
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.evaluation.pseudo_label_quality import ClassTallies, same_class_iou
from s4m_pipeline.refine.comparison import MaskKind, ValidationCounts
from s4m_pipeline.refine.images import (
    PhotoFiles,
    Unreadable,
    list_unreadable,
    load_photos,
    readable,
)
from s4m_pipeline.refine.inputs import Networks, RefineInputs
from s4m_pipeline.refine.labeler import build_labeler
from s4m_pipeline.refine.samples import Samples

DRAWS_OF_GENERATION = 0
"""Number of the generation that points on validation images are drawn for, always."""
COMPARED: tuple[PromptType, ...] = ("points", "point_centre", "box", "mask")
"""Kinds of prompts that are measured, besides the configured one. `points_softmax` repeats the released
code's way of drawing points, which may miss the mask; `point_confident` differs from `point_centre` by noise.
The more candidates, the more often one of them is the best by chance."""
POLL_S = 1.0


def candidates(recipe: Recipe) -> list[PromptType | None]:
    """The kinds of masks that are measured; None stands for the teacher's own."""
    if recipe.prompt is None:
        return [None]
    configured = [] if recipe.prompt in ("auto", *COMPARED) else [recipe.prompt]
    return [None, *COMPARED, *configured]  # type: ignore[list-item]


def measure_validation(
    inputs: RefineInputs,
    generation: Generation,
    shards: Sequence[ShardSpec],
    networks: Networks,
    *,
    stop: Callable[[], bool],
) -> bool:
    """Measure the validation images of these shards that nobody has measured; False if stopped.

    Several processes may do so at once: each image is measured by one of them, and the others wait for it.

    Raises:
        UserError: if an image is unreadable.
        CacheError: if writing to the disk fails.
    """
    for shard in shards:
        while lacks_counts(inputs, generation, shard):
            path = _path(generation, shard).with_suffix(".lock")
            try:
                lock = storage(path).lock(path, exclusive=True)
            except LockedError:
                if stop():
                    return False
                time.sleep(POLL_S)
                continue
            with lock:
                if lacks_counts(inputs, generation, shard) and not _measure_shard(
                    inputs, generation, shard, networks, stop
                ):
                    return False
    return True


def _measure_shard(
    inputs: RefineInputs,
    generation: Generation,
    shard: ShardSpec,
    networks: Networks,
    stop: Callable[[], bool],
) -> bool:
    data = inputs.held_out
    assert data is not None  # the caller's business
    assigned = set(shard.assigned(np.array([image.id for image in data.images], np.int64)).tolist())
    images = [image for image in data.images if image.id in assigned]
    console.progress.print(f"{len(images)} validation images, to measure {generation.name}")
    counts = count_on(inputs, images, networks, stop=stop)
    if counts is not None:
        _write_counts(generation, shard, data, counts)
    return counts is not None


def count_on(
    inputs: RefineInputs, images: Sequence[CocoImage], networks: Networks, *, stop: Callable[[], bool]
) -> ValidationCounts | None:
    """Label validation images with each kind of masks and count what is right; None if stopped.

    Raises:
        UserError: if an image is unreadable.
    """
    data, kinds = inputs.held_out, candidates(inputs.options.refine)
    assert data is not None  # the caller's business
    num_classes, by_id = len(data.categories), {image.id: image for image in images}
    rows: dict[MaskKind | None, dict[int, list[list[int]]]] = {kind: {} for kind in kinds}
    labeler = build_labeler(inputs, networks, DRAWS_OF_GENERATION)
    calibrated = inputs.options.refine.accept == "calibrated"
    samples: dict[PromptType, list[Samples]] = {kind: [] for kind in kinds if kind and calibrated}
    unreadable: list[Unreadable] = []
    files = PhotoFiles(images, inputs.config["test_pipeline"])
    photos = readable(
        load_photos(files, inputs.options.refine.loaders, pin_memory=labeler.on_gpu), unreadable.append
    )
    for batch in labeler.batches(photos):
        if stop():
            return None
        for photo, labels_by_prompt in zip(batch, labeler.label(batch, kinds), strict=True):
            truth = truth_masks(data, by_id[photo.image_id])
            for kind, labels in labels_by_prompt.items():
                if kind in samples:
                    samples[kind].append(Samples.of(labels.record(), truth.labels, truth.masks))
                tallies = ClassTallies.empty(num_classes)
                iou = same_class_iou(labels.label, labels.refined_masks, truth.labels, truth.masks)
                tallies.add(labels.label, truth.labels, iou)
                rows[kind][photo.image_id] = tallies.rows()
    if unreadable:
        raise UserError(
            f"{len(unreadable)} validation images cannot be used:\n"
            f"{list_unreadable((image.file_name, image.reason) for image in unreadable)}\n"
            "Fix these files: labels are compared on all of them."
        )
    ids = sorted(by_id)
    tables = {
        kind: np.array([of_kind[key] for key in ids], np.int64).reshape(-1, num_classes, 4)
        for kind, of_kind in rows.items()
    }
    joined = {kind: Samples.join(parts) for kind, parts in samples.items()}
    return ValidationCounts(np.array(ids, np.int64), tables, joined)


def lacks_counts(inputs: RefineInputs, generation: Generation, shard: ShardSpec) -> bool:
    """Whether a shard's validation images have still to be measured."""
    return inputs.held_out is not None and _read_counts(generation, shard, inputs.held_out) is None


def read_validation(inputs: RefineInputs, generation: Generation) -> ValidationCounts | None:
    """The counts of all shards; None without validation images.

    All shards must have been measured (see `lacks_counts`).
    """
    if inputs.held_out is None:
        return None
    counts = [_read_counts(generation, shard, inputs.held_out) for shard in generation.shards]
    first, *others = [part for part in counts if part is not None]
    return sum(others, first)


def _write_counts(generation: Generation, shard: ShardSpec, data: CocoData, counts: ValidationCounts) -> None:
    """Keep the counts of each image and class, where not all are 0; the caller holds the lock of the file."""
    path = _path(generation, shard)
    body = {
        "data": data.sha256,
        "images": counts.image_ids.tolist(),
        "counts": {kind or "none": _sparse(table) for kind, table in counts.by_prompt.items()},
        "samples": {kind: samples.as_record() for kind, samples in counts.samples.items()},
    }
    try:
        discard_leftovers(path)
        sealed.write(path, body)
    except OSError as error:
        raise disk_error(path, 4096, error) from error


def _read_counts(generation: Generation, shard: ShardSpec, data: CocoData) -> ValidationCounts | None:
    """None if they are missing, damaged or of another validation file."""
    try:
        body = sealed.read(_path(generation, shard))
    except (FileNotFoundError, DamagedError):
        return None
    if body["data"] != data.sha256:
        return None
    shape = (len(body["images"]), len(data.categories), 4)
    tables = {}
    for kind, rows in body["counts"].items():
        tables[None if kind == "none" else kind] = table = np.zeros(shape, np.int64)
        for image, label, *counted in rows:
            table[image, label] = counted
    samples = {kind: Samples.from_record(record) for kind, record in body["samples"].items()}
    return ValidationCounts(np.array(body["images"], np.int64), tables, samples)


def _sparse(table_IC4: NDArray[np.int64]) -> list[list[int]]:
    """Rows of place of the image, label, and its four counts."""
    places = np.argwhere(table_IC4.any(axis=2))
    return np.concatenate([places, table_IC4[tuple(places.T)]], axis=1).tolist()


def _path(generation: Generation, shard: ShardSpec) -> Path:
    return generation.path / f"held-out-{shard.index:04d}.json"
