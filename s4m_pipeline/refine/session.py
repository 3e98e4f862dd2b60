"""Refine step by step: begin a generation, label its shards, publish it. For the command and for training.

    inputs = load_inputs(options, parts, weights)
    generation = begin_generation(inputs, root, number, num_shards)
    in each of n processes:         label_share_of(inputs, generation, ShardSpec(i, n), stop=...)
    when all are done, in any one:  publish_if_complete(inputs, generation)

Each step may be repeated after a kill; what is done is not done again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache.generation import Generation, GenerationSpec
from cache.generations import begin, current_number
from cache.sharding import ShardSpec
from cache.writer import ShardWriter
from s4m_pipeline import console
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.evaluation.tally import ClassTallies
from s4m_pipeline.refine.build import (
    Networks,
    build_all,
    build_labeller,
    networks_on_device,
    photo_files,
)
from s4m_pipeline.refine.gate import Outcome, pass_gate, reject
from s4m_pipeline.refine.held_out import (
    DRAWS_OF_GENERATION,
    held_out_figures,
    held_out_images,
    measure_share,
    read_share,
    write_share,
)
from s4m_pipeline.refine.inputs import RefineInputs
from s4m_pipeline.refine.publication import NoPseudoLabels, publish_labels
from s4m_pipeline.refine.report import print_publication, print_session
from s4m_pipeline.refine.shard import label_shard


def begin_generation(inputs: RefineInputs, root: Path, number: int | None, num_shards: int) -> Generation:
    """Begin a generation or join it, once all that makes labels is known to work.

    Args:
        root: the cache's folder.
        number: which one; None: the newest there is, or 1.
        num_shards: into how many shares it is divided, if it has to be begun.

    Raises:
        UserError: if the config's model or test pipeline cannot be used; nothing is begun.
        CacheError: if it was begun with anything else.
    """
    build_all(inputs)
    spec = GenerationSpec(
        image_ids=[image.id for image in inputs.unlabeled.images],
        classes=inputs.labelled.class_names,
        category_ids=[category.id for category in inputs.labelled.categories],
        num_shards=num_shards,
        fingerprint=inputs.fingerprint(),
    )
    return begin(root, spec, number)


def label_share_of(
    inputs: RefineInputs, generation: Generation, share: ShardSpec, *, stop: Callable[[], bool]
) -> bool:
    """Label one of `share.count` shares: every `share.count`-th shard that the generation was begun with.

    Args:
        stop: as for `label_shard_of`.

    Returns:
        Whether the share is complete; False: `stop` ended it.

    Raises:
        UserError, CacheError: as `label_shard_of`.
    """
    shards = generation.shards[share.index - 1 :: share.count]
    return all(label_shard_of(inputs, generation, shard, stop=stop) for shard in shards)


def label_shard_of(
    inputs: RefineInputs, generation: Generation, shard: ShardSpec, *, stop: Callable[[], bool]
) -> bool:
    """Label what is pending in one shard, its share of the validation images first.

    Takes no signals itself, and leaves no network on the device.

    Args:
        stop: whether to end after the batch at hand; what is labelled by then is stored.

    Returns:
        Whether the shard is complete; False: `stop` ended it.

    Raises:
        UserError: too many unreadable images, or a teacher whose output is not finite.
        CacheError: if the disk refuses, or another process writes the shard.
    """
    held_out = inputs.held_out
    with ShardWriter(generation, shard, max_images=inputs.options.cache.part_images) as writer:
        console.progress.print(
            f"shard {shard} of {generation.name}: {writer.num_stored} done, {writer.pending.size} to do"
            + (f", {writer.num_discarded} part(s) discarded" if writer.num_discarded else ""),
        )
        to_measure = held_out is not None and read_share(generation, shard, held_out) is None
        if not to_measure and not writer.pending.size:
            return True
        with networks_on_device(inputs) as networks:
            if to_measure and not _measure(inputs, generation, shard, networks, stop):
                return False
            return not writer.pending.size or _label(inputs, writer, networks, stop)


def publish_if_complete(inputs: RefineInputs, generation: Generation) -> Outcome:
    """Publish a generation all of whose shards are done, unless the gate refuses it; say what was decided.

    The same labels get the same decision, however often it is asked for.

    Raises:
        NoPseudoLabels: if there is not a single one, and no earlier generation to keep.
        CacheError: if a part is damaged, or a later generation is current already.
    """
    publication = generation.published()
    if publication is not None and current_number(generation.root) >= generation.number:
        return Outcome.of_published(publication)
    if unfinished := _unfinished(generation, inputs.held_out):
        console.progress.print(
            f"{generation.name} is published when these shards are done, too: {unfinished}", soft_wrap=True
        )
        return Outcome("incomplete", {})
    quality: dict[str, Any] = {}
    if inputs.options.student is not None and inputs.held_out is not None:
        quality["held_out"] = _held_out(generation, inputs.held_out)
        outcome = pass_gate(inputs.options.student, generation, quality)
        if outcome.word == "rejected":
            return outcome
    try:
        publish_labels(generation, inputs.truth, inputs.options.refine.min_score, quality)
    except NoPseudoLabels as nothing:
        if not current_number(generation.root):
            raise
        return reject(generation, quality, str(nothing))
    publication = generation.published()
    assert publication is not None  # just written
    print_publication(generation, publication)
    return Outcome.of_published(publication)


def _measure(
    inputs: RefineInputs,
    generation: Generation,
    shard: ShardSpec,
    networks: Networks,
    stop: Callable[[], bool],
) -> bool:
    """Make a shard's part of the figures on the validation images; False if asked to stop."""
    held_out = inputs.held_out
    assert held_out is not None  # asked by the caller
    images = held_out_images(held_out, shard)
    console.progress.print(f"{len(images)} validation images, to measure {generation.name}")
    tallies = measure_share(
        held_out,
        photo_files(inputs, images),
        build_labeller(inputs, networks, DRAWS_OF_GENERATION),
        workers=inputs.options.refine.workers,
        stop=stop,
    )
    if tallies is not None:
        write_share(generation, shard, held_out, tallies)
    return tallies is not None


def _label(inputs: RefineInputs, writer: ShardWriter, networks: Networks, stop: Callable[[], bool]) -> bool:
    """Label a shard's pending images; False if asked to stop before the last one."""
    generation, options = writer.generation, inputs.options.refine
    pending = set(writer.pending.tolist())
    session = label_shard(
        writer,
        photo_files(inputs, [image for image in inputs.unlabeled.images if image.id in pending]),
        build_labeller(inputs, networks, generation.number, generation.root),
        truth=inputs.truth,
        workers=options.workers,
        max_unreadable=options.max_unreadable,
        stop=stop,
        console=console.progress,
    )
    print_session(session)
    return session.images + len(session.unreadable) == len(pending)


def _unfinished(generation: Generation, held_out: CocoData | None) -> str:
    """The shards that lack labels, or figures on the validation images."""
    missing = {shard: f"{shard} ({ids.size} images)" for shard, ids in generation.missing().items()}
    if held_out is not None:
        for shard in generation.shards:
            if read_share(generation, shard, held_out) is None:
                missing.setdefault(shard, f"{shard} (validation images)")
    return ", ".join(missing.values())


def _held_out(generation: Generation, held_out: CocoData) -> dict[str, Any]:
    shares = [read_share(generation, shard, held_out) for shard in generation.shards]
    tallies = sum((share for share in shares if share), ClassTallies.empty(len(held_out.categories)))
    return held_out_figures(tallies, held_out.class_names, len(held_out.images))
