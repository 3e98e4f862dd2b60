"""What a shard tells about its work, kept beside its parts for whoever publishes the generation."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.atomic import write_text
from cache.errors import disk_error
from cache.generation import Generation
from cache.sharding import ShardSpec
from s4m_pipeline.refine.labeller import SCORE_BINS


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """The sessions of one shard so far, or of several shards; a session that was killed is not counted."""

    images: int = 0
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds by stage: reading, teacher, encoder, decoder, masks, writing."""
    score_histogram: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    """Best object class confidence of every query, kept or not, in equal bins from 0 to 1."""
    unreadable: dict[str, list[str]] = field(default_factory=dict)
    """File name and reason by image id."""

    @classmethod
    def read(cls, generation: Generation, shard: ShardSpec) -> "ShardRecord":
        """The record of a shard; an empty one before its first session has ended."""
        path = _path(generation, shard)
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def write(self, generation: Generation, shard: ShardSpec) -> None:
        """Replace the record of a shard.

        Raises:
            CacheError: if the disk refuses.
        """
        path = _path(generation, shard)
        try:
            write_text(path, json.dumps(dataclasses.asdict(self)) + "\n")
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
        )

    def statistics(self) -> dict[str, Any]:
        """As they are stored with the published generation."""
        return {
            "images a second and process": round(self.images / self.seconds, 3) if self.seconds else None,
            "unreadable images": len(self.unreadable),
            **{f"seconds: {name}": seconds for name, seconds in self.stage_seconds.items()},
        }


def _path(generation: Generation, shard: ShardSpec) -> Path:
    return generation.path / f"shard-{shard.index:04d}.json"
