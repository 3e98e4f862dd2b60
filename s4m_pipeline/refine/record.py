"""What a shard tells about its work, kept beside its parts for whoever publishes the generation."""

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache import sealed
from cache.errors import DamagedError, disk_error
from cache.generation import Generation
from cache.records import ImageLabels
from cache.sharding import ShardSpec
from cache.summary import SCORE_BINS
from cache.writer import ShardWriter
from s4m_pipeline import console
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.refine.labeller import Labeller
from s4m_pipeline.refine.measuring import LabelMeter, sum_counts
from s4m_pipeline.refine.photos import Unreadable


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """The sessions of one shard so far, or of several shards; of one that was killed, what it had stored."""

    images: int = 0
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds by stage: reading, teacher, encoder, decoder, masks, writing."""
    score_histogram: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    """Best object class confidence of every query, kept or not, in equal bins from 0 to 1."""
    unreadable: dict[str, list[str]] = field(default_factory=dict)
    """File name and reason by image id."""
    full: int = 0
    """Images with as many labels as there can be (see `Labeller.max_instances`): some may be missing."""
    quality: Mapping[str, Any] | None = None
    """What `LabelMeter` counted; None without ground truth."""

    @classmethod
    def read(cls, generation: Generation, shard: ShardSpec) -> "ShardRecord":
        """The record of a shard; an empty one before its first commit, or if it is damaged."""
        try:
            return cls(**sealed.read(_path(generation, shard)))
        except FileNotFoundError:
            return cls()
        except DamagedError as damage:
            console.progress.print(
                f"{damage.path}: {damage.problem}. Times and unreadable images of earlier sessions are "
                "forgotten; labels and quality are as they were.",
                soft_wrap=True,
            )
            return cls()

    def write(self, generation: Generation, shard: ShardSpec) -> None:
        """Replace the record of a shard.

        Raises:
            CacheError: if the disk refuses.
        """
        path = _path(generation, shard)
        try:
            sealed.write(path, dataclasses.asdict(self))
        except OSError as error:
            raise disk_error(path, 4096, error) from error

    @classmethod
    def sum(cls, records: Sequence["ShardRecord"]) -> "ShardRecord":
        """All of them as one."""
        stages: Counter[str] = Counter()
        unreadable: dict[str, list[str]] = {}
        for record in records:
            stages.update(record.stage_seconds)
            unreadable |= record.unreadable
        histograms = [record.score_histogram for record in records]
        return cls(
            images=sum(record.images for record in records),
            seconds=round(sum(record.seconds for record in records), 3),
            stage_seconds={name: round(seconds, 3) for name, seconds in stages.items()},
            score_histogram=[sum(counts) for counts in zip(*histograms, strict=True)],
            unreadable=unreadable,
            full=sum(record.full for record in records),
            quality=functools.reduce(sum_counts, (record.quality for record in records), None),
        )

    def statistics(self) -> dict[str, Any]:
        """As they are stored with the published generation."""
        return {
            "images a second and process": round(self.images / self.seconds, 3) if self.seconds else None,
            "unreadable images": len(self.unreadable),
            "images with a label for every query": self.full,
            **{f"seconds: {name}": seconds for name, seconds in self.stage_seconds.items()},
        }


class Recorder:
    """Hands labels to a writer, and keeps the shard's record in step with what is stored.

    Args:
        writer: of the shard.
        labeller: whose times and scores are recorded.
        truth: what labels are compared with, if there is any.

    Attributes:
        unreadable: to be filled in before their empty labels are appended, which come last.
    """

    def __init__(self, writer: ShardWriter, labeller: Labeller, truth: CocoData | None) -> None:
        self.unreadable: Sequence[Unreadable] = ()
        self._writer = writer
        self._labeller = labeller
        self._meter = None if truth is None else LabelMeter(truth)
        before, pending = ShardRecord.read(writer.generation, writer.shard), set(writer.pending.tolist())
        still = {key: value for key, value in before.unreadable.items() if int(key) not in pending}
        self._before = dataclasses.replace(before, unreadable=still)
        self._began = time.perf_counter()
        self._images = self._full = 0
        writer.on_commit = self.save

    def append(self, labels: ImageLabels) -> None:
        """Take the labels of one image, as `ShardWriter.append`."""
        self._images += not self.unreadable
        self._full += len(labels.instances) >= self._labeller.max_instances
        if self._meter is not None:
            self._meter.add(labels)
        self._writer.append(labels)

    def session(self) -> ShardRecord:
        """What was done since the beginning."""
        stages = dict(self._labeller.stopwatch.seconds)
        return ShardRecord(
            images=self._images,
            seconds=round(time.perf_counter() - self._began, 3),
            stage_seconds={name: round(seconds, 3) for name, seconds in stages.items()},
            score_histogram=self._labeller.score_histogram.tolist(),
            unreadable={str(image.image_id): [image.file_name, image.reason] for image in self.unreadable},
            full=self._full,
            quality=None if self._meter is None else self._meter.counts(),
        )

    def save(self) -> None:
        """Write the record of all sessions of the shard.

        Raises:
            CacheError: if the disk refuses.
        """
        ShardRecord.sum([self._before, self.session()]).write(self._writer.generation, self._writer.shard)


def _path(generation: Generation, shard: ShardSpec) -> Path:
    return generation.path / f"shard-{shard.index:04d}.json"
