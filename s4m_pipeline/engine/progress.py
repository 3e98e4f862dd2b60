"""Progress of a training on the console: a bar in a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class TrainingProgress:
    """Shows step, loss, speed and time left; as a context it takes the bar away at the end.

    Args:
        console: where to; a quiet console shows nothing.
        total: steps of the whole training.
    """

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.total = total
        self.bar: Progress | None = None

    def start(self, step: int) -> None:
        """Begin (or go on) at `step`."""
        if self.console.is_terminal:
            self.bar = Progress(
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("{task.description}"),
                console=self.console,
                transient=True,
            )
            self.task = self.bar.add_task("", total=self.total, completed=step)
            self.bar.start()

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        if self.bar is not None:
            self.bar.update(self.task, completed=step)

    def losses(self, step: int, loss: float, seconds_per_step: float, sam_s: float | None = None) -> None:
        """Mean loss and time per step of the latest stretch, and SAM's part of the time if it has one."""
        left = timedelta(seconds=round((self.total - step) * seconds_per_step))
        part = "" if sam_s is None else f" (SAM {sam_s:.2f} s)"
        text = f"loss {loss:.3f}  {seconds_per_step:.2f} s/step{part}  {left} left"
        if self.bar is not None:
            self.bar.update(self.task, description=text)
        else:
            self.note(f"step {step}/{self.total}  {text}")

    def note(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, soft_wrap=True)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The console belongs to another display in this context."""
        if self.bar is not None:
            self.bar.stop()
        yield
        if self.bar is not None:
            self.bar.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()
