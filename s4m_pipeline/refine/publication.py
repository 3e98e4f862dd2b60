"""The end of a generation: its labels are counted, measured where there is ground truth, and published."""

import math
from collections.abc import Sequence

from cache.generation import Generation
from cache.generations import publish
from cache.reader import CacheReader
from cache.sharding import ShardSpec
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.errors import UserError
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.evaluation.pseudo_label_quality import LabelledMasks
from s4m_pipeline.evaluation.refinement_quality import RefinementQuality
from s4m_pipeline.refine.labeller import SCORE_BINS
from s4m_pipeline.refine.record import ShardRecord


def publish_labels(generation: Generation, truth: CocoData | None, min_score: float) -> None:
    """Publish a generation all of whose images have labels, with quality and statistics.

    Args:
        truth: annotations of its images; None: quality is not measured.
        min_score: what the scores had to exceed, for the message.

    Raises:
        UserError: if there is not a single pseudo-label, with a histogram of the teacher's scores.
        CacheError: as `publish`.
    """
    shards = [ShardSpec(i + 1, generation.spec.num_shards) for i in range(generation.spec.num_shards)]
    record = ShardRecord.sum([ShardRecord.read(generation, shard) for shard in shards])
    with CacheReader(generation) as reader:
        num_instances = reader.column("label").size
    if num_instances == 0:
        raise UserError(_no_labels(generation, record.score_histogram, min_score))
    quality = {} if truth is None else measure_quality(generation, truth).as_dict()
    statistics = {"instances an image": round(num_instances / generation.image_ids.size, 3)}
    publish(generation, quality=quality, statistics={**statistics, **record.statistics()})


def measure_quality(generation: Generation, truth: CocoData) -> RefinementQuality:
    """Compare the labels of a generation, before and after refinement, with ground truth, image by image."""
    quality = RefinementQuality(generation.spec.classes)
    with CacheReader(generation) as reader:
        for image in truth.images:
            if image.id not in reader:
                continue
            labels = reader.read(image.id, raw=True)
            if (labels.height, labels.width) != (image.height, image.width):  # an unreadable file
                continue
            instances = labels.instances
            assert instances.raw_masks is not None  # asked for
            before = instances.raw_masks.dense((0, 0, image.height, image.width))
            quality.add(
                LabelledMasks(instances.labels, before),
                LabelledMasks(instances.labels, labels.dense()),
                truth_masks(truth, image),
            )
    return quality


def _no_labels(generation: Generation, histogram: Sequence[int], min_score: float) -> str:
    highest = max(*histogram, 1)
    step = 1 / SCORE_BINS
    lines = [
        f"  {i * step:.2f} - {(i + 1) * step:.2f}  {count:>9}  {'#' * math.ceil(30 * count / highest)}"
        for i, count in enumerate(histogram)
        if count
    ]
    return (
        f"{generation.path}: the teacher gave no pseudo-label for any of {generation.image_ids.size} images: "
        f"nothing was published. Class confidence of its queries (refine.min_score is {min_score}):\n"
        + "\n".join(lines)
        + "\nTrain the teacher longer; or lower refine.min_score or refine.min_soft_area and start another "
        f"generation: --generation {generation.number + 1}"
    )
