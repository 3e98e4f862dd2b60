"""One training in several processes ("ranks"), one for each device, that start, fail and end together."""

import gc
import itertools
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from s4m_cache.errors import CacheError
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.train.launch import Place, find_place

T = TypeVar("T")

_PATIENCE = timedelta(seconds=5)
"""How long a rank that ends with an error waits for another one to do the same."""

_POLL_S = 0.1

_CALLS = itertools.count()
"""Numbers the calls of `on_first_rank`, which all ranks make in the same order."""


@contextmanager
def joined(timeout_s: float) -> Iterator[None]:
    """Join the other processes of this training, if there are any, and leave together with them.

    Only rank 0 prints to the console. Of errors that the user can fix, the first one is shown, once, and all
    ranks exit with 1; they also do when a rank dies or does not answer for `timeout_s` seconds.
    """
    place = find_place()
    if place is None:
        yield
        return
    store = _join(place, timedelta(seconds=timeout_s))
    if place.rank != 0:
        console.progress.quiet = console.result.quiet = True
    try:
        yield
        dist.barrier()  # a launcher that sees one process end may end the others
    except SystemExit as stopped:  # by a signal, all after the same iteration
        dist.barrier()
        error: BaseException | None = stopped
        while error is not None:  # frames that hold the network
            traceback.clear_frames(error.__traceback__)
            error = error.__context__
        _leave_group()
        raise
    except (UserError, CacheError) as error:
        _print_once(store, place, str(error))
        raise SystemExit(1) from error
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        _print_once(
            store,
            place,
            f"Rank {place.rank} lost contact with another process of this training, which ended or did not "
            f"answer for {timeout_s:.0f} s (rank_timeout_s).\n"
            "Checkpoints are intact: repeat the command to resume from the last one.",
        )
        raise SystemExit(1) from error
    _leave_group()


def on_first_rank(function: Callable[[], T]) -> T:
    """Call `function` on rank 0 while the others wait, however long; all return its picklable result.

    Raises:
        UserError: on all ranks, if `function` does, or raises a CacheError.
    """
    if not dist.is_initialized():
        return function()
    outcome: list = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = function()
        except (UserError, CacheError) as error:
            outcome[1] = str(error)
    _wait_for(1, f"first rank {next(_CALLS)}", arrives=dist.get_rank() == 0)
    dist.broadcast_object_list(outcome)
    result, fault = outcome
    if fault is not None:
        raise UserError(fault)
    return result


def wait_for_all(point: str, stop: Callable[[], bool]) -> None:
    """Wait until all ranks have called this, however long that takes, or until `stop` is true.

    Unlike a collective operation it has no timeout. When a rank dies, the launcher ends the others.

    Args:
        point: name of the call, used once.
    """
    if dist.is_initialized():
        _wait_for(dist.get_world_size(), point, stop=stop)


def _wait_for(
    ranks: int, point: str, *, arrives: bool = True, stop: Callable[[], bool] = lambda: False
) -> None:
    """Wait until so many ranks have arrived at a point: a collective operation would time out."""
    store = dist.distributed_c10d._get_default_store()
    store.add(point, int(arrives))
    while store.add(point, 0) < ranks and not stop():
        time.sleep(_POLL_S)


def _join(place: Place, timeout: timedelta) -> dist.Store:
    # For code that reads the environment itself, such as torch's rendezvous.
    os.environ.update(
        RANK=str(place.rank),
        LOCAL_RANK=str(place.local_rank),
        WORLD_SIZE=str(place.world_size),
        MASTER_ADDR=place.master_addr,
        MASTER_PORT=str(place.master_port),
    )
    os.environ.setdefault("MKL_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))  # else mmengine warns
    backend = "gloo"
    if torch.cuda.is_available():
        # srun may show each process its own GPU only.
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
        backend = "nccl"
    try:
        store, rank, world_size = next(iter(dist.rendezvous("env://", timeout=timeout)))
        store.set_timeout(timeout)
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=world_size,
            timeout=timeout,
        )
    except dist.DistError as error:
        raise UserError(
            f"Rank {place.rank} of {place.world_size} found no other process at "
            f"{place.master_addr}:{place.master_port} within {timeout.total_seconds():.0f} s: {error}\n"
            "Check that all were started and can reach this address."
        ) from error
    return store


def _leave_group() -> None:
    """Destroy the process group together with the network that refers to it.

    Threads of gloo that still run when the interpreter shuts down abort the process now and then.
    """
    dist.destroy_process_group()
    gc.collect()


def _print_once(store: dist.Store, place: Place, message: str) -> None:
    """Show the message unless another rank has shown one; returns when one has been shown."""
    first = True
    with suppress(RuntimeError):  # the process that holds the store has ended
        first = store.add("messages", 1) == 1
    if first:
        console.error.print(message)
    with suppress(RuntimeError):
        if first:
            store.set("said", "")
        else:
            store.wait(["said"], _PATIENCE)
        store.set(f"leaves {place.rank}", "")
        if place.rank == 0:  # its process may hold the store, which the others still need
            store.wait([f"leaves {rank}" for rank in range(place.world_size)], _PATIENCE)


def _is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective operation failed; gloo has no exception of its own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
