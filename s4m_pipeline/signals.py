"""Signals that a piece of work answers in its own way."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def answered(handler: Callable[[int, FrameType | None], object], *numbers: int) -> Iterator[dict[int, Any]]:
    """Let `handler` answer these signals in this context; gives what answered them before, and will again."""
    usual = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield usual
    finally:
        for number, before in usual.items():
            signal.signal(number, before)


def heed_parent_alone(worker_id: int) -> None:
    """Make SIGTERM and SIGINT end this loading process only if its parent sends them: a `worker_init_fn`.

    From anyone else (a terminal, `timeout`, a cluster) they went to all processes alike, and the parent needs
    its images to finish the step or the batch.
    """
    numbers = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def wait() -> None:
        while signal.sigwaitinfo(numbers).si_pid != os.getppid():
            pass
        os._exit(0)  # as torch's own handler

    threading.Thread(target=wait, daemon=True).start()
