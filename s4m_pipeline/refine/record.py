"""Stores the labels of a shard, and a record of the work for whoever publishes the generation."""

import dataclasses
import functools
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from s4m_cache import sealed
from s4m_cache.errors import DamagedError, disk_error
from s4m_cache.generation import Generation
from s4m_cache.records import ImageLabels
from s4m_cache.sharding import ShardSpec
from s4m_cache.summary import SCORE_BINS
from s4m_cache.writer import ShardWriter
from s4m_pipeline.core import console
from s4m_pipeline.core.devices import device_name
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.evaluation.refinement_quality import LabelMeter, sum_counts
from s4m_pipeline.refine.images import Unreadable
from s4m_pipeline.refine.labeler import Labeler
from s4m_pipeline.refine.labels import Labels

RATE = "images per second and process"
DEVICE = "device"
"""Names of statistics of a published generation."""
_MOST_WAITING = 4
"""Batches of labels that wait to be stored."""


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """The sessions of one shard so far, or of several shards; a killed session counts with what it stored."""

    images: int = 0
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds by stage: reading, teacher, encoder, decoder, masks, writing."""
    score_histogram: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    """Best object class confidence of every query, kept or not, in equal bins from 0 to 1."""
    unreadable: dict[str, list[str]] = field(default_factory=dict)
    """File name and reason by image id."""
    full: int = 0
    """Images with as many labels as there can be (see `Labeler.max_instances`): some may be missing."""
    quality: Mapping[str, Any] | None = None
    """What `LabelMeter` counted; None without ground truth."""
    devices: list[str] = field(default_factory=list)
    """Names of the GPUs, or "cpu"; none in records of earlier versions."""

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
                "lost; labels and quality are not affected.",
                soft_wrap=True,
            )
            return cls()

    def write(self, generation: Generation, shard: ShardSpec) -> None:
        """Replace the record of a shard.

        Raises:
            CacheError: if writing to the disk fails.
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
            devices=sorted({name for record in records for name in record.devices}),
        )

    def statistics(self) -> dict[str, Any]:
        """As they are stored with the published generation."""
        return {
            DEVICE: ", ".join(self.devices),
            RATE: round(self.images / self.seconds, 3) if self.seconds else None,
            "unreadable images": len(self.unreadable),
            "images with a label for every query": self.full,
            **{f"seconds: {name}": seconds for name, seconds in self.stage_seconds.items()},
        }


class Recorder:
    """Passes labels to a writer, and keeps the shard's record up to date with what is stored.

    Args:
        writer: of the shard.
        labeler: whose times and scores are recorded.
        truth: what labels are compared with, if there is any.

    Attributes:
        unreadable: set before their empty labels are appended, which come last.
    """

    def __init__(self, writer: ShardWriter, labeler: Labeler, truth: CocoData | None) -> None:
        self.unreadable: Sequence[Unreadable] = ()
        self._writer = writer
        self._labeler = labeler
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
        limit = self._labeler.max_instances
        self._full += limit is not None and len(labels.instances) >= limit
        if self._meter is not None:
            self._meter.add(labels)
        self._writer.append(labels)

    def session(self) -> ShardRecord:
        """The record of this session."""
        stages = dict(self._labeler.stopwatch.seconds)
        return ShardRecord(
            images=self._images,
            seconds=round(time.perf_counter() - self._began, 3),
            stage_seconds={name: round(seconds, 3) for name, seconds in stages.items()},
            score_histogram=self._labeler.score_histogram.tolist(),
            unreadable={str(image.image_id): [image.file_name, image.reason] for image in self.unreadable},
            full=self._full,
            quality=None if self._meter is None else self._meter.counts(),
            devices=[device_name()],
        )

    def save(self) -> None:
        """Write the record of all sessions of the shard.

        Raises:
            CacheError: if writing to the disk fails.
        """
        ShardRecord.sum([self._before, self.session()]).write(self._writer.generation, self._writer.shard)


class BackgroundWriter:
    """Stores labels on a separate thread, so that the device never waits for the disk.

    An error there is raised by the next `put`, or on leaving the context. At most four batches
    wait: a slow disk then slows `put` down instead of filling the memory.

    Args:
        store: takes the labels of one image.
    """

    def __init__(self, store: Callable[[ImageLabels], None]) -> None:
        self._store_one = store
        self._thread = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[Future[None]] = deque()

    def put(self, batch: Sequence[Labels]) -> None:
        """Queue a batch."""
        self._waiting.append(self._thread.submit(self._store, batch))
        while self._waiting and (self._waiting[0].done() or len(self._waiting) > _MOST_WAITING):
            self._waiting.popleft().result()

    def _store(self, batch: Sequence[Labels]) -> None:
        for labels in batch:
            self._store_one(labels.record())

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for future in self._waiting:
                future.result()


def _path(generation: Generation, shard: ShardSpec) -> Path:
    return generation.path / f"shard-{shard.index:04d}.json"
