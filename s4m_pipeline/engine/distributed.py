"""One training in several processes ("ranks"), one for each device, that begin, fail and end together."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from cache.errors import CacheError
from s4m_pipeline import console
from s4m_pipeline.engine.launch import Place, find_place
from s4m_pipeline.errors import UserError

T = TypeVar("T")

_PATIENCE = timedelta(seconds=5)
"""How long a rank that ends with an error waits for another one to do so too."""

_POLL_S = 0.5


@contextmanager
def joined(timeout_s: float) -> Iterator[None]:
    """Join the other processes of this training, if there are any, and leave together with them.

    Rank 0 alone speaks on the console. Of errors the user can mend, those of the first rank to meet one are
    shown, once; all ranks then exit with 1. So they do when a rank dies or is silent for `timeout_s` seconds.
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
    except SystemExit:  # stopped by a signal, all at the same step
        dist.barrier()
        raise
    except (UserError, CacheError) as error:
        _say_once(store, place, str(error))
        raise SystemExit(1) from error
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        _say_once(
            store,
            place,
            f"Rank {place.rank} lost contact with another process of this training, which ended or was "
            f"silent for {timeout_s:.0f} s (rank_timeout_s).\n"
            "Checkpoints are intact: repeat the command to go on from the last one.",
        )
        raise SystemExit(1) from error
    dist.destroy_process_group()


def on_first_rank(function: Callable[[], T]) -> T:
    """Call `function` on rank 0 while the others wait; all get its result, which must be picklable.

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
    dist.broadcast_object_list(outcome)
    result, fault = outcome
    if fault is not None:
        raise UserError(fault)
    return result


def wait_for_all(point: str, stop: Callable[[], bool]) -> None:
    """Wait until all ranks have come here, however long that takes, or `stop`: then a collective may follow.

    Nobody is given up for being slow; that a rank died is for the launcher to notice, which ends the others.

    Args:
        point: its name; each is come to once.
    """
    if not dist.is_initialized():
        return
    store = dist.distributed_c10d._get_default_store()
    store.add(point, 1)
    while store.add(point, 0) < dist.get_world_size() and not stop():
        time.sleep(_POLL_S)


def _join(place: Place, timeout: timedelta) -> dist.Store:
    # For what reads the environment itself, torch's rendezvous first of all.
    os.environ.update(
        RANK=str(place.rank),
        LOCAL_RANK=str(place.local_rank),
        WORLD_SIZE=str(place.world_size),
        MASTER_ADDR=place.master_addr,
        MASTER_PORT=str(place.master_port),
    )
    os.environ.setdefault("MKL_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))  # mmengine warns else
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
            "See whether all were started and can reach this address."
        ) from error
    return store


def _say_once(store: dist.Store, place: Place, message: str) -> None:
    """Show the message if no other rank has shown one; returns when that has been done."""
    first = True
    with suppress(RuntimeError):  # the process that keeps the store is gone
        first = store.add("messages", 1) == 1
    if first:
        console.error.print(message)
    with suppress(RuntimeError):
        if first:
            store.set("said", "")
        else:
            store.wait(["said"], _PATIENCE)
        store.set(f"leaves {place.rank}", "")
        if place.rank == 0:  # it may keep the store, which the others are about to ask
            store.wait([f"leaves {rank}" for rank in range(place.world_size)], _PATIENCE)


def _is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective operation failed; gloo has no exception of its own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
