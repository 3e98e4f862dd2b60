"""Progress of refine on the console: a bar in a terminal, a plain line now and then elsewhere."""

import time
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from s4m_pipeline.refine.stopwatch import Stopwatch

SECONDS_PER_LINE = 10.0


class RefineProgress:
    """Shows images, images a second, instances an image, time left, and the stage that takes most of it.

    Args:
        console: where to; a quiet console shows nothing.
        total: images to label.
        stopwatch: where the time goes.
    """

    def __init__(self, console: Console, total: int, stopwatch: Stopwatch) -> None:
        self._console = console
        self._total = total
        self._stopwatch = stopwatch
        self._images = self._instances = 0
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        self._began = self._last_line = time.perf_counter()
        if self._console.is_terminal:
            self._bar = Progress(
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("{task.description}"),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, images: int, instances: int) -> None:
        """So many more are done."""
        self._images += images
        self._instances += instances
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._images, description=self._text(now))
        elif now - self._last_line > SECONDS_PER_LINE:
            self._last_line = now
            self._console.print(f"{self._images}/{self._total} images  {self._text(now)}", soft_wrap=True)

    def _text(self, now: float) -> str:
        rate = self._images / (now - self._began)
        left = timedelta(seconds=round((self._total - self._images) / rate))
        stage, share = self._stopwatch.slowest
        return (
            f"{rate:.1f} images/s  {self._instances / self._images:.1f} instances/image  {left} left  "
            f"{share:.0%} of the time: {stage}"
        )
