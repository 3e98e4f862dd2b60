"""Where the time goes: seconds by stage of the work."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")


class Stopwatch:
    """Adds up wall-clock seconds by name; `seconds` maps names to sums."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Count the time spent inside, the device's work included, as `name`."""
        began = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - began

    def timed(self, items: Iterable[Item], name: str) -> Iterator[Item]:
        """The same items; the time spent waiting for each of them is counted as `name`."""
        iterator = iter(items)
        while True:
            with self.measure(name):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    @property
    def slowest(self) -> tuple[str, float]:
        """The name with most seconds, and its fraction of all (0 to 1)."""
        name = max(self.seconds, key=self.seconds.__getitem__)
        return name, self.seconds[name] / sum(self.seconds.values())
