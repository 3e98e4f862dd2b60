"""A generation of pseudo-labels: begin it and label its shards; `publish` then makes it current.

    inputs = load_inputs(options, config, weights)
    generation = begin_generation(inputs, root, number, num_shards)
    in each of n processes:         label_shards(inputs, generation, ShardSpec(i, n), stop=...)
    when all are done, in any one:  publish_if_complete(inputs, generation)

Each step may be repeated after a kill; finished work is skipped.
"""

import itertools
from collections.abc import Callable, Container, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from s4m_cache.errors import CacheError, require_space
from s4m_cache.generation import Generation, GenerationSpec
from s4m_cache.generations import begin, generations
from s4m_cache.limits import LABEL_BYTES
from s4m_cache.records import ImageLabels, Instances
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.progress import ProgressBar
from s4m_pipeline.experiment.image_files import image_changes, record_images, recorded_images
from s4m_pipeline.refine.choice import MaskChoice, choose_masks
from s4m_pipeline.refine.fingerprint import explain_labels, needs_choice
from s4m_pipeline.refine.images import (
    PhotoFiles,
    Unreadable,
    list_unreadable,
    load_photos,
    readable,
)
from s4m_pipeline.refine.inputs import Networks, RefineInputs, networks_on_device
from s4m_pipeline.refine.labeler import build_labeler
from s4m_pipeline.refine.record import BackgroundWriter, Recorder, ShardRecord
from s4m_pipeline.refine.validation import lacks_counts, measure_validation


def begin_generation(
    inputs: RefineInputs, root: Path, number: int | None, num_shards: int, part: ShardSpec | None = None
) -> Generation:
    """Begin a generation or join it, once everything that makes labels is known to work.

    Args:
        root: the cache's folder.
        number: which one; None: the newest there is, or 1.
        num_shards: into how many shards it is divided, if it has to be begun.
        part: as for `label_shards`: the shards whose images are checked for replaced ones; None: all.

    Raises:
        UserError: if the config's model or test pipeline cannot be used; nothing is begun.
        CacheError: if it was begun with anything else, or an image was replaced since it was labeled.
    """
    _ = inputs.teacher
    PhotoFiles((), inputs.config["test_pipeline"])
    spec = GenerationSpec(
        image_ids=[image.id for image in inputs.unlabeled.images],
        classes=inputs.labeled.class_names,
        category_ids=[category.id for category in inputs.labeled.categories],
        num_shards=num_shards,
        fingerprint=inputs.fingerprint(),
    )
    names = {image.id: image.file_name for image in inputs.unlabeled.images}
    generation = begin(root, spec, number, explain_labels, names)
    shards = _shards_of(generation, part) if part else generation.shards
    own = {id_ for shard in shards for id_ in shard.assigned(generation.image_ids).tolist()}
    labeled = _paths(inputs, own & {*generation.stored_ids().tolist()})
    if changed := image_changes(generation.path, {*map(str, labeled)}):
        raise CacheError(
            f"{generation.path} was begun with other images:\n  " + "\n  ".join(changed[:10]) + "\nLabels of "
            f"both must not be mixed: start a new one with --generation {generations(root)[-1].number + 1}."
        )
    return generation


def label_shards(
    inputs: RefineInputs, generation: Generation, part: ShardSpec, *, stop: Callable[[], bool]
) -> bool:
    """Label what is pending in every `part.count`-th shard of the generation, validation images first.

    Where these decide which masks are taken, those of all shards are measured before any label is made.

    Takes no signals itself, and leaves no network on the device.

    Args:
        part: which shards; with `part.count` equal to the generation's number of shards, just one.
        stop: whether to end after the current batch; what is labeled by then is stored.

    Returns:
        Whether these shards are complete; False: `stop` ended it.

    Raises:
        UserError: too many unreadable images, or a teacher whose output is not finite.
        CacheError: if writing fails, the disk has too little space, or another process writes the shard.
    """
    own = _shards_of(generation, part)
    others = [shard for shard in generation.shards if shard not in own]
    with ExitStack() as stack:
        writers = [stack.enter_context(_open_shard(inputs, generation, shard)) for shard in own]
        pending = [writer for writer in writers if writer.pending.size]
        _record_images(inputs, generation, [writer.shard for writer in pending])
        num_images = sum(writer.pending.size for writer in pending)
        require_space(generation.path, num_images * LABEL_BYTES, f"storing the labels of {num_images} images")
        if not pending and not any(lacks_counts(inputs, generation, shard) for shard in own):
            return True
        networks = stack.enter_context(networks_on_device(inputs))
        decides = pending and needs_choice(inputs.options.refine, inputs.options.student)
        to_measure = [*own, *others] if decides else own
        if not measure_validation(inputs, generation, to_measure, networks, stop=stop):
            return False
        for writer in pending:
            if not _label_pending(inputs, writer, networks, choose_masks(inputs, generation), stop):
                return False
    return True


def _shards_of(generation: Generation, part: ShardSpec) -> list[ShardSpec]:
    return generation.shards[part.index - 1 :: part.count]


def _paths(inputs: RefineInputs, image_ids: Container[int]) -> list[Path]:
    return [image.path for image in inputs.unlabeled.images if image.id in image_ids]


def _record_images(inputs: RefineInputs, generation: Generation, shards: Sequence[ShardSpec]) -> None:
    """Record what the images of these shards hold, before they are labeled; new and changed ones are read."""
    if not shards:
        return
    known = {
        path: entry
        for earlier in generations(generation.root)
        for path, entry in recorded_images(earlier.path).items()
    }
    for shard in shards:
        paths = _paths(inputs, {*shard.assigned(generation.image_ids).tolist()})
        record_images(generation.path, paths, known, shard.index)


def _open_shard(inputs: RefineInputs, generation: Generation, shard: ShardSpec) -> ShardWriter:
    writer = ShardWriter(generation, shard, max_images=inputs.options.cache.part_images)
    console.progress.print(
        f"shard {shard} of {generation.name}: {writer.num_stored} done, {writer.pending.size} to do"
        + (f", {writer.num_discarded} part(s) discarded" if writer.num_discarded else ""),
    )
    return writer


def _label_pending(
    inputs: RefineInputs,
    writer: ShardWriter,
    networks: Networks,
    choice: MaskChoice,
    stop: Callable[[], bool],
) -> bool:
    """Label the pending images of a shard, store labels and record; False if asked to stop before the end.

    Unreadable images get empty labels, but only once all others have theirs: until then they stay pending,
    and a file that is fixed in the meantime is labeled like any other.
    """
    generation, options = writer.generation, inputs.options.refine
    pending = set(writer.pending.tolist())
    images = [image for image in inputs.unlabeled.images if image.id in pending]
    files = PhotoFiles(images, inputs.config["test_pipeline"])
    labeler = build_labeler(inputs, networks, generation.number, root=generation.root)
    stopwatch, recorder = labeler.stopwatch, Recorder(writer, labeler, inputs.truth)
    unreadable: list[Unreadable] = []
    loaded = load_photos(files, options.loaders, pin_memory=labeler.on_gpu)
    photos = readable(stopwatch.timed(loaded, "reading"), unreadable.append)
    batches = itertools.takewhile(
        lambda _: not stop() and len(unreadable) <= options.max_unreadable,
        labeler.batches(photos),
    )

    def store(labels: ImageLabels) -> None:
        recorder.append(labels if choice.acceptance is None else choice.acceptance.apply(labels))

    num_instances = 0
    with (
        ProgressBar(len(files), "Labeling images") as progress,
        BackgroundWriter(store) as background,
    ):
        for batch in batches:
            labels = [found[choice.prompt] for found in labeler.label(batch, [choice.prompt])]
            with stopwatch.measure("writing"):
                background.put(labels)
            num_instances += sum(len(image.label) for image in labels)
            per_image = num_instances / (progress.done + len(labels))
            stage, fraction = stopwatch.slowest
            progress.advance(
                len(labels),
                f"{progress.per_second:.1f} images/s  {per_image:.1f} instances per image  "
                f"{fraction:.0%} of the time: {stage}",
            )
    writer.commit()
    if labeler.encoder is not None:
        labeler.encoder.close()
    if len(unreadable) > options.max_unreadable:
        raise UserError(_too_many(unreadable, options.max_unreadable))
    complete = progress.done + len(unreadable) == len(files)
    if complete:  # else unreadable images are looked at again
        _store_empty(recorder, writer, files, unreadable)
    recorder.save()
    _print_session(recorder.session())
    return complete


def _store_empty(
    recorder: Recorder, writer: ShardWriter, files: PhotoFiles, unreadable: list[Unreadable]
) -> None:
    recorder.unreadable = unreadable
    recorder.save()  # first: once they have labels, no later session looks at them
    sizes = {image.id: (max(image.height, 1), max(image.width, 1)) for image in files.images}
    for image in unreadable:
        height, width = sizes[image.image_id]
        nothing = Instances.create(masks=np.zeros((0, 1, 1), np.bool_), labels=[], scores=[], pred_ious=[])
        recorder.append(ImageLabels(image_id=image.image_id, height=height, width=width, instances=nothing))
    writer.commit()


def _too_many(unreadable: list[Unreadable], limit: int) -> str:
    names = list_unreadable((image.file_name, image.reason) for image in unreadable)
    return (
        f"More than {limit} unlabeled images (refine.max_unreadable) cannot be used, among them:\n{names}\n"
        "Fix these files, or raise the limit with --set refine.max_unreadable=N, and run the same command "
        "again: labels of the others are stored."
    )


def _print_session(session: ShardRecord) -> None:
    rate = session.images / session.seconds
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in session.stage_seconds.items())
    console.progress.print(
        f"{session.images} images in {session.seconds:.1f} s, {rate:.2f} images/s ({stages})", soft_wrap=True
    )
    if session.unreadable:
        names = list_unreadable((name, reason) for name, reason in session.unreadable.values())
        console.progress.print(f"{len(session.unreadable)} unreadable images have no labels:\n{names}")
    if session.full:
        console.progress.print(
            f"{session.full} images have as many labels as the teacher has queries, and may show more "
            "objects: a network with a larger model.panoptic_head.num_queries finds more.",
            soft_wrap=True,
        )
