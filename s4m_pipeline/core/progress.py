"""Progress on the console: a bar in a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Self, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from s4m_pipeline.core import console

Item = TypeVar("Item")


class ProgressBar:
    """Shows how many of `total` items are done and the time left; as a context it is removed at the end.

    Args:
        title: what is done.
        line_every_s: seconds between lines where there is no terminal.

    Attributes:
        done: items done.
    """

    def __init__(self, total: int, title: str, line_every_s: float = 10.0) -> None:
        self.total = total
        self.done = 0
        self._title = title
        self._line_every_s = line_every_s
        columns = (TextColumn(title), MofNCompleteColumn(), BarColumn(bar_width=None), TimeRemainingColumn())
        self._bar = Progress(
            *columns,
            TextColumn("{task.description}"),
            console=console.progress,
            transient=True,
            disable=not console.progress.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)
        self.start_at(0)

    def start_at(self, done: int) -> None:
        """Start the clock, with so many items done before."""
        self.done = self._done_before = done
        self._began_s = self._last_line_s = time.monotonic()
        self._bar.reset(self._task, completed=done)

    @property
    def per_second(self) -> float:
        """Items per second since the start."""
        return (self.done - self._done_before) / max(time.monotonic() - self._began_s, 1e-9)

    def advance(self, count: int = 1, text: str | None = None) -> None:
        """Count items that are done, and show a text beside them."""
        self.done += count
        self._bar.update(self._task, completed=self.done, description=text)
        if time.monotonic() - self._last_line_s > self._line_every_s:
            self.show(text or "")

    def show(self, text: str) -> None:
        """Show a text beside the bar, or on a line of its own where there is no terminal."""
        self._bar.update(self._task, description=text)
        self._last_line_s = time.monotonic()
        if self._bar.disable and self.per_second:
            left = timedelta(seconds=round((self.total - self.done) / self.per_second))
            console.progress.print(
                f"{self._title}  {self.done}/{self.total}  {text}  {left} left", soft_wrap=True
            )

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Leave the console to another display in this context."""
        self._bar.stop()
        yield
        self._bar.start()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()


def track(items: Iterable[Item], total: int, title: str) -> Iterator[Item]:
    """The same items, with a progress bar."""
    with ProgressBar(total, title) as bar:
        for item in items:
            yield item
            bar.advance()
