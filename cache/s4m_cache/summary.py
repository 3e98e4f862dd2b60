"""Progress and statistics of a generation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4m_cache.generation import Generation
from s4m_cache.reader import CacheReader
from s4m_cache.schema import IGNORED, USE_RAW

SCORE_BINS = 20


@dataclass(frozen=True)
class State:
    """Progress of a generation, read from its manifests alone."""

    number: int
    published_at: str | None
    num_images: int
    num_stored: int
    num_parts: int
    size_bytes: int


@dataclass(frozen=True)
class Summary:
    """Statistics of a generation.

    Attributes:
        num_instances: instances in total, those ignored included.
        num_without: images without instances.
        per_class: instances by class name.
        score_histogram: instances in each of SCORE_BINS equal bins of the score from 0 to 1.
        mean_score, mean_pred_iou, mean_raw_iou: means over the instances with a value; None without any.
        num_raw: instances that use the teacher's mask instead of a refined one.
        num_ignored: instances of which neither mask is likely to be right.
        fingerprint: what the labels depend on.
        quality, statistics: as passed to `publish`; None before publication.
    """

    num_instances: int
    num_without: int
    per_class: dict[str, int]
    score_histogram: list[int]
    mean_score: float | None
    mean_pred_iou: float | None
    mean_raw_iou: float | None
    num_raw: int
    num_ignored: int
    fingerprint: dict[str, Any]
    quality: dict[str, Any] | None
    statistics: dict[str, Any] | None


def state(generation: Generation) -> State:
    """Progress of a generation.

    Raises:
        DamagedError: if a manifest or a file size is wrong.
    """
    parts, publication = generation.parts(), generation.published()
    return State(
        number=generation.number,
        published_at=publication["published_at"] if publication else None,
        num_images=generation.image_ids.size,
        num_stored=generation.stored_ids().size,
        num_parts=len(parts),
        size_bytes=sum(part.size_bytes for part in parts),
    )


def summarize(generation: Generation) -> Summary:
    """Statistics of a generation, complete or not; masks are not read.

    Raises:
        DamagedError: if a small array is damaged.
    """
    spec, publication = generation.spec, generation.published()
    with CacheReader(generation) as reader:
        labels, scores = reader.column("label"), reader.column("score")
        pred_ious, raw_ious = reader.column("pred_iou"), reader.column("raw_iou")
        counts, use_raw = reader.instance_counts(), reader.column("use_raw")
    per_class = np.bincount(labels, minlength=len(spec.classes)).tolist()
    return Summary(
        num_instances=labels.size,
        num_without=int((counts == 0).sum()),
        per_class=dict(zip(spec.classes, per_class, strict=True)),
        score_histogram=score_histogram(scores).tolist(),
        mean_score=_mean(scores),
        mean_pred_iou=_mean(pred_ious),
        mean_raw_iou=_mean(raw_ious),
        num_raw=int(np.count_nonzero(use_raw == USE_RAW)),
        num_ignored=int(np.count_nonzero(use_raw == IGNORED)),
        fingerprint=dict(spec.fingerprint),
        quality=publication["quality"] if publication else None,
        statistics=publication["statistics"] if publication else None,
    )


def score_histogram(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Number of scores in each of SCORE_BINS equal bins from 0 to 1."""
    return np.histogram(scores, SCORE_BINS, (0, 1))[0]


def histogram_rows(histogram: Sequence[int]) -> list[list[str]]:
    """Table rows of a score histogram, without empty bins: range, count, bar."""
    bins, highest = len(histogram), max(*histogram, 1)
    return [
        [f"{i / bins:.2f} - {(i + 1) / bins:.2f}", f"{count}", "#" * math.ceil(30 * count / highest)]
        for i, count in enumerate(histogram)
        if count
    ]


def _mean(values: Any) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None
