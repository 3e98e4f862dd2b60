"""Signals that a piece of work answers in its own way."""

import signal
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
