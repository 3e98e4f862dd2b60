"""New pseudo-labels while the student learns: by its EMA weights, or from another process."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_dist_info
from mmengine.hooks import Hook

from s4m_cache.generation import Generation
from s4m_cache.generations import collect_garbage, current_number, generations, made_with
from s4m_cache.sharding import ShardSpec
from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.student import StudentOptions
from s4m_pipeline.experiment.generation_log import GenerationLog
from s4m_pipeline.refine.fingerprint import explain_labels
from s4m_pipeline.refine.gate import Outcome
from s4m_pipeline.refine.generation import begin_generation, label_shards
from s4m_pipeline.refine.inputs import RefineInputs, load_inputs
from s4m_pipeline.refine.publish import publish_if_complete
from s4m_pipeline.train.distributed import on_first_rank, wait_for_all
from s4m_pipeline.train.hooks import StopOnSignal, save_now
from s4m_pipeline.train.metrics import MetricsHook


class TakeLabels(Hook):
    """Tells the loader which generation of pseudo-labels to read, and refreshes it as the options say.

    A refresh happens between two iterations, right after a checkpoint is saved, so that a run killed in it
    resumes it. The loader is then restarted at the same position of its stream: the next iteration is the
    first with the new labels, whatever the number of workers. Without `refresh_every`, a generation published
    by another process is used after the next pass over all unlabeled images.

    Args:
        root: the cache.
        log: of this training; holds the generation to start with.
        options: `burn_in`, `refresh_every`, `keep_generations`.
        epoch_steps: iterations in which all unlabeled images are seen once.
        refine: makes a generation.
    """

    priority = "LOWEST"

    def __init__(
        self,
        root: Path,
        log: GenerationLog,
        options: StudentOptions,
        epoch_steps: int,
        refine: "RefineLabels",
    ) -> None:
        self.root = root
        self.log = log
        self.options = options
        self.epoch_steps = epoch_steps
        self.refine = refine

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
        """Refresh if it is due; whether the generation in use has changed."""
        if step >= runner.max_iters:  # no iteration would use it
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
            made = self.refine(Path(runner.work_dir, f"iter_{step}.pth"), lambda: bool(stop.received))
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
        in_use = self.log.latest if outcome.decision == "rejected" else made
        self.log.record(step, in_use, outcome.decision, made=made, **outcome.about)
        # The last rejected generation is kept, so that the user can still publish it.
        refused = [entry["made"] for entry in self.log.entries[:-1] if entry["decision"] == "rejected"]
        on_first_rank(lambda: collect_garbage(self.root, self.options.keep_generations, refused))

    def _tell_loader(self, runner: Any) -> None:
        runner.train_loop.dataloader.sampler.generation = self.log.latest


class RefineLabels:
    """Makes a generation of pseudo-labels as `s4m refine` does, with the same settings.

    Each rank labels one or more shards. A generation left incomplete by a killed training is completed, with
    the number of shards it was started with.

    Args:
        options: of the experiment.
        config: the whole config.
        root: the cache.
    """

    def __init__(self, options: Options, config: Mapping[str, Any], root: Path) -> None:
        self.options = options
        self.config = config
        self.root = root
        self.inputs: RefineInputs | None = None

    def __call__(self, checkpoint: Path, stop: Callable[[], bool]) -> tuple[int, Outcome] | None:
        """Label all unlabeled images with a checkpoint's EMA weights, and publish the labels or not.

        Returns:
            The generation's number and the decision; None, on all ranks, if `stop` was true on any of them.

        Raises:
            UserError, CacheError: as `s4m refine`.
        """
        if self.inputs is None:
            inputs = load_inputs(self.options, self.config, checkpoint)
        else:
            inputs = self.inputs.with_weights(checkpoint)
        self.inputs = inputs
        rank, ranks = get_dist_info()
        generation = on_first_rank(lambda: _begin(inputs, self.root, ranks))
        complete = label_shards(inputs, generation, ShardSpec(rank + 1, ranks), stop=stop)
        wait_for_all(f"labeled {generation.name}", stop)  # some ranks may have one shard more than others
        if not _on_all_ranks(complete):
            return None
        return generation.number, on_first_rank(lambda: publish_if_complete(inputs, generation))


def _begin(inputs: RefineInputs, root: Path, ranks: int) -> Generation:
    """The generation that was started with these weights, or a new one."""
    begun = made_with(root, inputs.fingerprint(), explain_labels)
    number = begun.number if begun else generations(root)[-1].number + 1
    return begin_generation(inputs, root, number, ranks)


def _on_all_ranks(value: bool) -> bool:
    smallest = torch.tensor(int(value))
    all_reduce(smallest, "min")
    return bool(smallest)
