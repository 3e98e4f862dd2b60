"""Process N rows in chunks; when device memory runs out, halve the chunk size and retry."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from s4m_pipeline.core.errors import UserError

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class OutOfDeviceMemory(UserError):
    """A single row does not fit; smaller pieces of what it is part of still may."""


class Chunker:
    """Run a function over `[start, stop)` ranges of at most `size` rows.

    When device memory runs out, the size is halved and the chunk repeated; the smaller size is kept.
    """

    def __init__(self, size: int, what: str) -> None:
        if size < 1:
            raise ValueError(f"{what}: chunk size {size}, expected at least 1")
        self.size = size
        self._what = what

    def map(self, run: Callable[[int, int], Result], total: int) -> Iterator[tuple[int, Result]]:
        """Yield `(start, run(start, stop))` in order; `run` may use another chunker for parts of its rows.

        Raises:
            OutOfDeviceMemory: if a single row does not fit.
        """
        start = 0
        while start < total:
            stop = min(start + self.size, total)
            try:
                result = run(start, stop)
            except (RuntimeError, OutOfDeviceMemory) as error:
                if not _is_out_of_memory(error) or (self.size == 1 and isinstance(error, OutOfDeviceMemory)):
                    raise
                if self.size == 1:
                    raise OutOfDeviceMemory(
                        f"Out of device memory with a single {self._what} at a time. "
                        f"Free device memory, or use a smaller model or the CPU. ({error})"
                    ) from error
                out_of_memory = True
            else:
                out_of_memory = False
            # After the except block, whose traceback keeps the tensors of the failed chunk alive.
            if out_of_memory:
                self._halve()
                continue
            yield start, result
            start = stop

    def padded(self, count: int) -> int:
        """The least power of two, or the chunk size, that `count` rows fit in: few different shapes."""
        return min(1 << max(count - 1, 0).bit_length(), self.size)

    def _halve(self) -> None:
        self.size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning(
            "out of device memory: continuing with %d %s(s) at a time; results are the same up to rounding",
            self.size,
            self._what,
        )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether device memory ran out; cuBLAS and cuDNN, which allocate on their own, raise a plain error."""
    named = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
    if isinstance(error, torch.OutOfMemoryError | OutOfDeviceMemory):
        return True
    return any(name in str(error) for name in named)
