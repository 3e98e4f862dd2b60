"""The loop of refine: one shard of the unlabelled images, from files to parts of the cache."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
from rich.console import Console

from cache.records import ImageLabels, Instances
from cache.writer import ShardWriter
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.errors import UserError
from s4m_pipeline.refine.labeller import Labeller
from s4m_pipeline.refine.packing import BackgroundWriter
from s4m_pipeline.refine.photos import (
    Photo,
    PhotoFiles,
    Unreadable,
    batches_by_size,
    list_unreadable,
    load_photos,
    readable,
)
from s4m_pipeline.refine.progress import RefineProgress
from s4m_pipeline.refine.record import Recorder, ShardRecord
from s4m_pipeline.refine.stopwatch import Stopwatch

Item = TypeVar("Item")


def label_shard(
    writer: ShardWriter,
    files: PhotoFiles,
    labeller: Labeller,
    *,
    truth: CocoData | None,
    workers: int,
    max_unreadable: int,
    stop: Callable[[], bool],
    console: Console,
) -> ShardRecord:
    """Label the images that are pending in a shard, store labels and record; returns that of this session.

    Unreadable images get empty labels, but only once all others have theirs: until then they stay pending,
    and a file that was mended in between is labelled like any other.

    Args:
        writer: of the shard.
        files: the pending images.
        truth: what the labels are compared with, if there is any.
        workers: processes that decode.
        max_unreadable: how many images may be unreadable.
        stop: whether to end after the batch at hand; what is labelled is stored.

    Raises:
        UserError: if more images are unreadable, with their names; the others' labels are stored.
    """
    recorder = Recorder(writer, labeller, truth)
    unreadable: list[Unreadable] = []
    loaded = timed(load_photos(files, workers, pin_memory=labeller.on_gpu), labeller.stopwatch, "reading")
    photos = readable(loaded, unreadable.append)
    batches = itertools.takewhile(
        lambda _: not stop() and len(unreadable) <= max_unreadable,
        batches_by_size(photos, labeller.batch_size, labeller.divisor_px),
    )
    with RefineProgress(console, len(files), labeller.stopwatch) as progress:
        num_labelled = _label_batches(batches, labeller, recorder, progress)
    writer.commit()
    if labeller.encoder is not None:
        labeller.encoder.close()
    if len(unreadable) > max_unreadable:
        raise UserError(_too_many(unreadable, max_unreadable))
    if num_labelled + len(unreadable) == len(files):  # else asked to stop: they are looked at again
        recorder.unreadable = unreadable
        recorder.save()  # first: once they have labels, no later session looks at them
        _append_empty(recorder, files, unreadable)
    writer.commit()
    recorder.save()
    return recorder.session()


def _label_batches(
    batches: Iterable[list[Photo]], labeller: Labeller, recorder: Recorder, progress: RefineProgress
) -> int:
    """Label and record every batch; returns the number of images."""
    num_labelled = 0
    with BackgroundWriter(recorder.append) as background:
        for batch in batches:
            fetched = labeller.label_and_fetch(batch)
            with labeller.stopwatch.measure("writing"):
                background.put(fetched)
            num_labelled += len(fetched)
            progress.advance(len(fetched), sum(len(labels.label) for labels in fetched))
    return num_labelled


def timed(items: Iterable[Item], watch: Stopwatch, name: str) -> Iterator[Item]:
    """The same items; the time until each of them is there is counted as `name`."""
    iterator = iter(items)
    while True:
        with watch.measure(name):
            item = next(iterator, None)
        if item is None:
            return
        yield item


def _too_many(unreadable: list[Unreadable], limit: int) -> str:
    names = list_unreadable((image.file_name, image.reason) for image in unreadable)
    return (
        f"More than {limit} unlabelled images (refine.max_unreadable) cannot be used, among them:\n{names}\n"
        "Mend these files, or raise the limit with --set refine.max_unreadable=N, and run the same command "
        "again: labels of the others are stored."
    )


def _append_empty(recorder: Recorder, files: PhotoFiles, unreadable: list[Unreadable]) -> None:
    sizes = {image.id: (max(image.height, 1), max(image.width, 1)) for image in files.images}
    for image in unreadable:
        height, width = sizes[image.image_id]
        nothing = Instances.create(masks=np.zeros((0, 1, 1), np.bool_), labels=[], scores=[], pred_ious=[])
        recorder.append(ImageLabels(image_id=image.image_id, height=height, width=width, instances=nothing))
