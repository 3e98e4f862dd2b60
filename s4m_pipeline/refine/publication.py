"""The end of a generation: its labels are counted, measured where there is ground truth, and published."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cache.compare import compare
from cache.generation import Generation
from cache.generations import current_number, publish
from cache.reader import CacheReader
from cache.sharding import ShardSpec
from cache.summary import SCORE_BINS, histogram_rows, summarise
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.errors import UserError
from s4m_pipeline.evaluation.refinement_quality import RefinementQuality
from s4m_pipeline.refine.measuring import quality_of_shard
from s4m_pipeline.refine.record import ShardRecord

AGREEMENT_IMAGES = 1000
"""Images at most on which a generation is compared with the one before."""


class NoPseudoLabels(UserError):
    """The teacher is sure of nothing in any image."""


def publish_labels(
    generation: Generation, truth: CocoData | None, min_score: float, quality: Mapping[str, Any]
) -> None:
    """Publish a generation all of whose images have labels, with quality and statistics.

    Args:
        truth: annotations of its images; None: their quality is not measured.
        min_score: what the scores had to exceed, for the message.
        quality: what was measured elsewhere.

    Raises:
        NoPseudoLabels: if there is not a single one, with a histogram of the teacher's scores.
        CacheError: as `publish`.
    """
    records = {shard: ShardRecord.read(generation, shard) for shard in generation.shards}
    record = ShardRecord.sum(list(records.values()))
    summary = summarise(generation)
    if summary.num_instances == 0:
        raise NoPseudoLabels(_no_labels(generation, record.score_histogram, min_score))
    if truth is not None:
        counts = {shard: known.quality for shard, known in records.items()}
        measured = measure_quality(generation, truth, counts).as_dict(generation.spec.classes)
        quality = {**measured, **quality}
    statistics = {
        "instances an image": round(summary.num_instances / generation.image_ids.size, 3),
        "instances by class": summary.per_class,
        "mean score": summary.mean_score and round(summary.mean_score, 4),
        "agreement with the generation before": agreement_with_current(generation),
        **record.statistics(),
    }
    publish(generation, quality=quality, statistics=statistics)


def agreement_with_current(generation: Generation) -> float | None:
    """Percent of instances of a generation and the current one that the other has, too, in the same class.

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
    total = 2 * (change.kept + change.relabelled) + change.gained + change.lost
    return round(200 * change.kept / total, 2) if total else None


def measure_quality(
    generation: Generation, truth: CocoData, counts: Mapping[ShardSpec, Mapping[str, Any] | None]
) -> RefinementQuality:
    """Compare the labels of a generation, before and after refinement, with ground truth.

    Args:
        counts: for each shard, what was counted while its labels were made.
    """
    quality = RefinementQuality(len(truth.categories))
    with CacheReader(generation) as reader:
        for shard, counted in counts.items():
            quality += quality_of_shard(reader, shard.assigned(generation.image_ids), truth, counted)
    return quality


def _no_labels(generation: Generation, histogram: Sequence[int], min_score: float) -> str:
    lines = [f"  {scores}  {count:>9}  {bar}" for scores, count, bar in histogram_rows(histogram)]
    # Above a half no other class, nor "no object", can be likelier.
    sure = sum(histogram[math.ceil(max(min_score, 0.5) * SCORE_BINS) :])
    return (
        f"{generation.path}: the teacher gave no pseudo-label for any of {generation.image_ids.size} images: "
        f"nothing was published. Class confidence of its queries (refine.min_score is {min_score}):\n"
        + "\n".join(lines)
        + (f"\n{sure} of them are sure enough, but their masks are empty or too small." if sure else "")
        + "\nTrain the teacher longer; or lower refine.min_score or refine.min_soft_area and start another "
        f"generation: --generation {generation.number + 1}"
    )
