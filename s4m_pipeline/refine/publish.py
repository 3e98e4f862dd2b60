"""The end of a generation: its labels are counted, measured where there is ground truth, and published."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from s4m_cache.compare import compare
from s4m_cache.generation import Generation
from s4m_cache.generations import current_number, publish
from s4m_cache.reader import CacheReader
from s4m_cache.sharding import ShardSpec
from s4m_cache.summary import SCORE_BINS, histogram_rows, summarize
from s4m_pipeline.config.experiment import Options
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.evaluation.refinement_quality import RefinementQuality, quality_of_shard
from s4m_pipeline.experiment.generation_log import PER_IMAGE
from s4m_pipeline.refine.choice import choose_masks, with_choice
from s4m_pipeline.refine.comparison import comparison_tables
from s4m_pipeline.refine.gate import Outcome, pass_gate, reject
from s4m_pipeline.refine.inputs import RefineInputs
from s4m_pipeline.refine.record import ShardRecord
from s4m_pipeline.refine.validation import lacks_counts, read_validation

AGREEMENT_IMAGES = 1000
"""Images at most on which a generation is compared with the one before."""


class LabelsRefused(UserError):
    """No labels may be learned from: there are none, or far too few, and none from before."""


def publish_if_complete(inputs: RefineInputs, generation: Generation) -> Outcome:
    """Publish a generation all of whose shards are done, unless the gate refuses it; print the decision.

    The same labels get the same decision, however often this is called.

    Raises:
        LabelsRefused: if they are refused, or there are none, and no earlier generation is there to keep.
        CacheError: if a part is damaged, or a later generation is current already.
    """
    publication = generation.published()
    if publication is not None and current_number(generation.root) >= generation.number:
        return Outcome.of_published(publication)
    if unfinished := _unfinished(inputs, generation):
        console.progress.print(
            f"{generation.name} is published once these shards are done, too: {unfinished}", soft_wrap=True
        )
        return Outcome("incomplete", {})
    quality, student = _validation_quality(inputs, generation), inputs.options.student
    summary = summarize(generation)
    num_labels = summary.num_instances - summary.num_ignored
    per_image = round(num_labels / generation.image_ids.size, 3)
    decision, faults = "taken", ""
    if student is not None and "held_out" in quality:
        decision, faults = pass_gate(student, generation, quality, per_image)
    if not num_labels:
        decision, faults = "rejected", f"no pseudo-label for any of {generation.image_ids.size} images"
    if decision == "rejected":
        return _refuse(inputs, generation, num_labels, quality, faults)
    if decision == "warned":
        console.progress.print(f"Warning: {faults}.", soft_wrap=True)
    records = {shard: ShardRecord.read(generation, shard) for shard in generation.shards}
    if inputs.truth is not None:
        measured = _measure_quality(generation, inputs.truth, records)
        quality = {**measured.as_dict(generation.spec.classes), **quality}
    statistics = {
        PER_IMAGE: per_image,
        "instances by class": summary.per_class,
        "mean score": summary.mean_score and round(summary.mean_score, 4),
        "agreement with the generation before": agreement_with_current(generation),
        **ShardRecord.sum(list(records.values())).statistics(),
    }
    publish(generation, quality=quality, statistics=statistics)
    publication = generation.published()
    assert publication is not None  # just written
    _print_publication(generation, publication)
    return Outcome.of_published(publication)


def _unfinished(inputs: RefineInputs, generation: Generation) -> str:
    """The shards that lack labels, or counts on the validation images."""
    missing = {shard: f"{shard} ({ids.size} images)" for shard, ids in generation.missing().items()}
    for shard in generation.shards:
        if lacks_counts(inputs, generation, shard):
            missing.setdefault(shard, f"{shard} (validation images)")
    return ", ".join(missing.values())


def _validation_quality(inputs: RefineInputs, generation: Generation) -> dict[str, Any]:
    """What was measured on the validation images: `held_out` of the masks taken, `masks` of all kinds."""
    counts = read_validation(inputs, generation)
    if counts is None:
        return {}
    choice, classes = choose_masks(inputs, generation), inputs.labeled.class_names
    counts = with_choice(counts, choice)
    return {
        "held_out": counts.figures(choice.kind, classes),
        "masks": counts.compared(classes),
        "masks taken": choice.kind or "none",
        "masks taken because": choice.reason,
    }


def _refuse(
    inputs: RefineInputs, generation: Generation, num_labels: int, quality: dict[str, Any], faults: str
) -> Outcome:
    """Keep the labels of the generation before, or raise `LabelsRefused` if there is none."""
    record = ShardRecord.sum([ShardRecord.read(generation, shard) for shard in generation.shards])
    measured = quality.get("held_out", {"objects": 0, "images": 1})
    objects = measured["objects"] / max(measured["images"], 1)
    advice = advise(generation, inputs.options, record.score_histogram, num_labels, objects)
    anyway = f"To publish it anyway: s4m cache publish {generation.root} --generation {generation.number}"
    outcome = reject(generation, quality, f"{faults}. {anyway if num_labels else advice}")
    if not current_number(generation.root):
        raise LabelsRefused(f"{generation.path}: {faults}: nothing was published. {advice}")
    return outcome


def agreement_with_current(generation: Generation) -> float | None:
    """Percent of the instances of a generation and the current one that are in both, in the same class.

    Measured on images spread over the list; None if there is no other generation with the same classes.
    """
    number = current_number(generation.root)
    if number in (0, generation.number):
        return None
    before = Generation(generation.root, number)
    if before.published() is None or before.spec.classes != generation.spec.classes:
        return None
    with CacheReader(before) as old, CacheReader(generation) as new:
        change = compare(old, new, max_images=AGREEMENT_IMAGES)
    total = 2 * (change.kept + change.relabeled) + change.gained + change.lost
    return round(200 * change.kept / total, 2) if total else None


def _measure_quality(
    generation: Generation, truth: CocoData, records: Mapping[ShardSpec, ShardRecord]
) -> RefinementQuality:
    """Compare the labels, before and after refinement, with ground truth."""
    quality = RefinementQuality(len(truth.categories))
    with CacheReader(generation) as reader:
        for shard, record in records.items():
            quality += quality_of_shard(reader, shard.assigned(generation.image_ids), truth, record.quality)
    return quality


def advise(
    generation: Generation, options: Options, histogram: Sequence[int], num_labels: int, objects: float
) -> str:
    """The scores of the teacher's queries, and the settings that probably give more labels, best first.

    Args:
        histogram: of the best class confidence of each query, in `SCORE_BINS` bins from 0 to 1.
        num_labels: labels made.
        objects: per validation image, as many as are wanted per image; 0: unknown.
    """
    recipe, iterations = options.refine, options.teacher.iterations
    lines = [f"  {scores}  {count:>9}  {bar}" for scores, count, bar in histogram_rows(histogram)]
    # Above one half no other class, nor "no object", can be more likely.
    confident = _count_above(histogram, max(recipe.min_score, 0.5))
    score = _lower_score(histogram, recipe.min_score, generation.image_ids.size * max(objects, 1.0))
    more = _count_above(histogram, score) - _count_above(histogram, recipe.min_score)
    gains = {
        f"refine.min_score={score:g}  ({more} more queries are that confident)": more,
        f"refine.min_soft_area={recipe.min_soft_area / 5:g}  (smaller masks are kept)": confident
        - num_labels,
    }
    others = [f"teacher.iterations={2 * iterations}  (twice as many)"]
    if num_labels:
        others.append("student.gate=warn  (these labels are used all the same)")
    ranked = sorted(gains, key=lambda setting: -gains[setting])
    promising = [setting for setting in ranked if gains[setting] > 0]
    settings = [*promising, *others, *(setting for setting in ranked if gains[setting] <= 0)][:3]
    return (
        f"Class confidence of the teacher's queries (refine.min_score is {recipe.min_score}):\n"
        + "\n".join(lines)
        + (
            f"\n{confident} of them are confident enough, but their masks are empty or too small."
            if confident and not num_labels
            else ""
        )
        + f"\nMost promising settings, each for another generation (--generation {generation.number + 1}):\n"
        + "\n".join(f"  --set {setting}" for setting in settings)
    )


def _count_above(histogram: Sequence[int], score: float) -> int:
    return sum(histogram[math.ceil(round(score * SCORE_BINS, 6)) :])


def _lower_score(histogram: Sequence[int], min_score: float, wanted: float) -> float:
    """The highest threshold below `min_score` that so many queries exceed, or as many as there are."""
    edge, wanted = math.ceil(round(min_score * SCORE_BINS, 6)) - 1, min(wanted, sum(histogram[1:]))
    while edge > 1 and sum(histogram[edge:]) < wanted:
        edge -= 1
    return max(edge, 1) / SCORE_BINS


def _print_publication(generation: Generation, publication: Mapping[str, Any]) -> None:
    quality = publication["quality"]
    if "instances measured" in quality:
        _print_quality(quality, generation.spec.classes)
    if "masks" in quality:
        console.result.print(comparison_tables(quality["masks"], quality["masks taken"])[0])
    console.result.print(f"{generation.name} is published.")


def _print_quality(quality: Mapping[str, Any], classes: Sequence[str]) -> None:
    """SQ and CA before and after refinement, overall and by class, as stored with the generation."""
    names = ("SQ before", "SQ after", "CA before", "CA after")
    table = Table("class", title="Quality of the pseudo-labels, percent")
    for name in names:
        table.add_column(name, justify="right")
    table.add_row("all", *(_cell(quality, name) for name in names))
    for label in classes:
        table.add_row(label, *(_cell(quality, f"{name}, {label}") for name in names))
    console.result.print(table)
    console.result.print(
        f"{quality['instances measured']} instances: {_cell(quality, 'improved')} % improved, "
        f"{_cell(quality, 'worsened')} % worsened by refinement"
    )


def _cell(figures: Mapping[str, Any], name: str) -> str:
    value = figures.get(name)
    return "-" if value is None else f"{value:.1f}"
