"""Work over many items in several processes."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_ITEMS_PER_PROCESS = 25  # fewer are done sooner than a process has started


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in order, computed by up to `jobs` processes; few items by this one.

    `function` is one that can be pickled, of a module that imports quickly. Waiting work is dropped when the
    caller stops.
    """
    jobs = min(jobs, -(-len(items) // _ITEMS_PER_PROCESS))
    if jobs <= 1:
        yield from ((item, function(item)) for item in items)
        return
    # Spawned, not forked: the caller may hold threads or a GPU.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from zip(items, pool.map(function, items, chunksize=4), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
