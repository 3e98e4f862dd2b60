"""Shards: a stable, disjoint and complete division of a list of images."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s4m_cache.errors import CacheError

_JOB_ARRAYS: tuple[tuple[str, str | int, str], ...] = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"),
    ("SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST"),
    ("LSB_JOBINDEX", 1, "LSB_JOBINDEX_END"),
    ("AWS_BATCH_JOB_ARRAY_INDEX", 0, "AWS_BATCH_JOB_ARRAY_SIZE"),
)
"""Variables with a task's index, the first index (or its fixed value), the number of tasks or last index."""


@dataclass(frozen=True)
class ShardSpec:
    """The `index`-th of `count` shards, counted from 1: `3/8`."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise CacheError(f"shard {self.index}/{self.count}: expected i/n with i from 1 to n, as in 3/8")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "ShardSpec":
        """Read `i/n`.

        Raises:
            CacheError: if the text is anything else, or i is not in 1..n.
        """
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if match is None:
            raise CacheError(f"shard {text!r}: expected i/n with i from 1 to n, as in 3/8")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "ShardSpec | None":
        """The shard of this task of a job array (SLURM, Grid Engine, LSF, AWS Batch); None outside of one.

        Raises:
            CacheError: if the index exceeds the number of tasks: the array has gaps or a step size.
        """
        for index_name, first_name, count_name in _JOB_ARRAYS:
            first = environ.get(first_name, "") if isinstance(first_name, str) else str(first_name)
            values = (environ.get(index_name, ""), first, environ.get(count_name, ""))
            if not all(value.isdigit() for value in values) or int(values[0]) < int(first):
                continue  # Grid Engine says "undefined" and LSF 0 outside of an array
            index, count = int(values[0]) - int(first) + 1, int(values[2])
            if index > count:
                raise CacheError(
                    f"{index_name}={values[0]}, {count_name}={count}: the job array has gaps or a step size, "
                    "so its tasks are not shards 1..n. Submit it without gaps, or pass the shard: --shard i/n"
                )
            return cls(index, count)
        return None

    @staticmethod
    def no_environment(environ: Mapping[str, str]) -> dict[str, str]:
        """The environment without the job array's variables: for a command that processes all shards."""
        indices = {index_name for index_name, _, _ in _JOB_ARRAYS}
        return {name: value for name, value in environ.items() if name not in indices}

    def assigned(self, image_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """This shard's image ids, sorted: every `count`-th of the sorted list.

        So neighbors in a data set (frames of a video, one city) are spread over all shards.
        """
        return np.sort(image_ids)[self.index - 1 :: self.count]
