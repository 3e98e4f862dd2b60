"""New labels while the student learns: made by its averaged weights, or by another process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from mmengine.dist import barrier
from mmengine.hooks import Hook

from cache.generation import Generation
from cache.generations import collect_garbage, current_number
from s4m_pipeline.engine.distributed import on_first_rank
from s4m_pipeline.engine.hooks import MetricsHook, StopOnSignal, save_now
from s4m_pipeline.options.student import StudentOptions
from s4m_pipeline.refine.gate import Outcome
from s4m_pipeline.student.generations import GenerationLog


class LabelMaker(Protocol):
    """Labels all unlabelled images with the averaged weights of a checkpoint, and publishes them or not."""

    def __call__(self, checkpoint: Path, stop: Callable[[], bool]) -> tuple[int, Outcome] | None:
        """Make a generation, or go on with the one begun with this checkpoint.

        Returns:
            Its number and what became of it; None if `stop` came first, on all ranks alike.
        """


class TakeLabels(Hook):
    """Tells the loader which generation to read, and replaces it at the steps that the options name.

    A refresh happens between two steps, right after a checkpoint of its own was saved: whoever is killed in
    it goes on with it. The loader then starts anew at the same place of its stream, so the first step after a
    refresh is the first to see the new labels, with any number of workers. Without `refresh_every`, a
    generation that another process has published is taken when all unlabelled images were seen once more.

    Args:
        root: the cache.
        log: of this training; holds the generation to begin with.
        options: `burn_in`, `refresh_every`, `keep_generations`.
        epoch_steps: steps in which all unlabelled images are seen once.
        make: makes a generation.
    """

    priority = "LOWEST"

    def __init__(
        self, root: Path, log: GenerationLog, options: StudentOptions, epoch_steps: int, make: LabelMaker
    ) -> None:
        self.root = root
        self.log = log
        self.options = options
        self.epoch_steps = epoch_steps
        self.make = make

    def before_train(self, runner: Any) -> None:
        self.log.drop_after(runner.iter)
        self._update(runner, runner.iter)
        self._tell_loader(runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        step = runner.iter + 1
        if self._update(runner, step):
            self._tell_loader(runner)
            runner.train_loop.dataloader_iterator.skip_iter(step)

    def _update(self, runner: Any, step: int) -> bool:
        """Whether other labels are in use now."""
        if step >= runner.max_iters:  # no step would learn from them
            return False
        before = self.log.latest
        if self._refresh_is_due(step) and not self.log.decided_at(step):
            self._refresh(runner, step)
        elif self.options.refresh_every is None and step > 0 and step % self.epoch_steps == 0:
            self._look_for_published(runner, step)
        return self.log.latest != before

    def _refresh_is_due(self, step: int) -> bool:
        every, begin = self.options.refresh_every, max(self.options.burn_in, 1)
        return every is not None and step >= begin and (step - begin) % every == 0

    def _refresh(self, runner: Any, step: int) -> None:
        save_now(runner, step)
        barrier()
        (stop,) = (hook for hook in runner.hooks if isinstance(hook, StopOnSignal))
        (metrics,) = (hook for hook in runner.hooks if isinstance(hook, MetricsHook))
        with metrics.not_training():
            made = self.make(Path(runner.work_dir, f"iter_{step}.pth"), lambda: bool(stop.received))
            if made is None:
                stop.leave()
            self._record(step, *made)

    def _look_for_published(self, runner: Any, step: int) -> None:
        newest = on_first_rank(lambda: current_number(self.root))
        if newest > self.log.latest:
            save_now(runner, step)
            publication = on_first_rank(lambda: Generation(self.root, newest).published())
            assert publication is not None  # it is current
            self._record(step, newest, Outcome.of_published(publication))

    def _record(self, step: int, made: int, outcome: Outcome) -> None:
        in_use = self.log.latest if outcome.word == "rejected" else made
        self.log.record(step, in_use, outcome.word, made=made, **outcome.about)
        # The last one refused stays: the user may publish it all the same.
        refused = [entry["made"] for entry in self.log.entries[:-1] if entry["decision"] == "rejected"]
        on_first_rank(lambda: collect_garbage(self.root, self.options.keep_generations, refused))

    def _tell_loader(self, runner: Any) -> None:
        runner.train_loop.dataloader.sampler.generation = self.log.latest
