"""Work through N rows in chunks; when device memory runs out, halve the chunk and go on."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from s4m_pipeline.errors import UserError

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Chunker:
    """Runs a function over `[start, stop)` ranges of at most `size` rows.

    A chunk that runs out of device memory is halved and repeated; the smaller size is kept from then on.
    """

    def __init__(self, size: int, what: str) -> None:
        if size < 1:
            raise ValueError(f"{what}: chunk size {size}, expected at least 1")
        self.size = size
        self._what = what

    def map(self, run: Callable[[int, int], Result], total: int) -> Iterator[tuple[int, Result]]:
        """Yield `(start, run(start, stop))` in order. Raises `UserError` if a single row is too much."""
        start = 0
        while start < total:
            stop = min(start + self.size, total)
            try:
                result = run(start, stop)
            except torch.OutOfMemoryError as error:
                if self.size == 1:
                    raise UserError(
                        f"Out of device memory with a single {self._what}. "
                        f"Free the device, or take a smaller model or the CPU. ({error})"
                    ) from error
                out_of_memory = True
            else:
                out_of_memory = False
            # Outside the except block: there the traceback would still hold the failed chunk's tensors.
            if out_of_memory:
                self._halve()
                continue
            yield start, result
            start = stop

    def _halve(self) -> None:
        self.size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning(
            "out of device memory: now %d %s(s) at a time; results are the same", self.size, self._what
        )
