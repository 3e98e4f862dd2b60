"""Signal handlers: for a stretch of work, and for processes that load data."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_PARENT_POLL_S = 2.0


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], object], *numbers: int) -> Iterator[dict[int, Any]]:
    """Handle these signals with `handler` in this context; yields those before, restored at the end."""
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield previous
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


class SignalReceiver:
    """Notes SIGTERM and SIGINT for work that looks, now and then, whether to save and stop.

    Attributes:
        received: the signal that came last; 0 before.
    """

    def __init__(self) -> None:
        self.received = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle both signals in this context; a second SIGINT has its default effect.

        A second SIGTERM has none: `timeout` sends it twice, to the process and to its group.
        """
        with handled_by(self._receive, signal.SIGTERM, signal.SIGINT) as self.usual:
            yield

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self.usual[signal.SIGINT])


def ignore_external_signals(worker_id: int) -> None:
    """Make SIGTERM and SIGINT end this loading process only if its parent sends them: a `worker_init_fn`.

    A terminal, `timeout` or a cluster sends them to all processes alike, and the parent still needs its
    images to finish the iteration or the batch. A process whose parent was killed ends by itself.
    """
    numbers = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    parent = _pid_of_parent()

    def wait() -> None:
        while os.getppid() == parent:
            received = signal.sigtimedwait(numbers, _PARENT_POLL_S)
            if received is not None and received.si_pid == parent:
                break
        os._exit(0)  # as torch's own handler

    threading.Thread(target=wait, daemon=True).start()


def _pid_of_parent() -> int:
    """The process that started this one, also if it was killed before this line."""
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None, "not a process of multiprocessing"
    return parent.pid


class Interrupted(Exception):
    """Training stopped by a signal after everything was saved.

    Args:
        signal_number: SIGINT or SIGTERM.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number
