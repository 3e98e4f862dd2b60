"""What happens around each training step: metrics, stopping on a signal, and recovery from NaN."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from types import FrameType
from typing import Any, NoReturn

import torch
from mmengine.dist import all_gather_object, all_reduce, master_only
from mmengine.hooks import CheckpointHook, Hook

from cache.atomic import write_text
from s4m_pipeline.engine.checkpoint import latest_checkpoint
from s4m_pipeline.engine.metrics import read_metrics
from s4m_pipeline.engine.progress import TrainingProgress
from s4m_pipeline.errors import UserError
from s4m_pipeline.signals import answered


class Interrupted(Exception):
    """Training stopped by a signal after everything was saved.

    Args:
        signal_number: SIGINT or SIGTERM.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class MetricsHook(Hook):
    """Writes the mean of every loss over `every` steps to metrics.jsonl, the visualizer and the console.

    On several devices losses are means over all, times and memory those of rank 0.

    Args:
        path: metrics.jsonl; lines after the step that a run resumes from are dropped.
        every: steps per line.
        progress: what is shown on the console.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, path: Path, every: int, progress: TrainingProgress) -> None:
        self.path = path
        self.every = every
        self.progress = progress
        self.sums: dict[str, torch.Tensor] = {}
        self.steps = 0
        self.data_s = 0.0
        self.warned = False

    def before_train(self, runner: Any) -> None:
        self._drop_lines_after(runner.iter)
        self.progress.start(runner.iter)
        self.began = self.step_ended = time.perf_counter()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.data_s += time.perf_counter() - self.step_ended

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        for name, value in outputs.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float()
        self.steps += 1
        step = runner.iter + 1
        self.progress.advance(step)
        if step % self.every == 0 or step == runner.max_iters:
            self._write_losses(runner, step)
        self.step_ended = time.perf_counter()

    def before_val_epoch(self, runner: Any) -> None:
        self.val_began = time.perf_counter()

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        if not metrics:  # a pass that a signal cut short
            return
        took_s = time.perf_counter() - self.val_began
        self._append(
            {
                "step": runner.iter,
                "seconds": round(took_s, 2),
                **{f"val_{name}": value for name, value in metrics.items()},
            }
        )
        runner.visualizer.add_scalars(
            {f"val/{name}": value for name, value in metrics.items()}, step=runner.iter
        )
        self.progress.note(f"step {runner.iter}  validation  " + _shown(metrics))
        self._leave_out(time.perf_counter() - self.val_began)

    @contextmanager
    def not_training(self) -> Iterator[None]:
        """Something else is done in this context, with a progress display of its own."""
        began = time.perf_counter()
        with self.progress.suspended():
            yield
        self._leave_out(time.perf_counter() - began)

    def _leave_out(self, seconds: float) -> None:
        """Time that does not count as a step's."""
        self.began += seconds
        self.step_ended = time.perf_counter()

    def _write_losses(self, runner: Any, step: int) -> None:
        means = torch.tensor([float(value) / self.steps for value in self.sums.values()])
        all_reduce(means, "mean")
        losses = {name: round(value, 5) for name, value in zip(self.sums, means.tolist(), strict=True)}
        timing = {
            "seconds_per_step": round((time.perf_counter() - self.began) / self.steps, 4),
            "data_seconds_per_step": round(self.data_s / self.steps, 4),
        }
        memory = {}
        if torch.cuda.is_available():
            memory["memory_mb"] = torch.cuda.max_memory_allocated() >> 20
        learning = {
            "lr": max(runner.optim_wrapper.get_lr()["lr"]),
            "grad_norm": round(runner.optim_wrapper.grad_norm, 5),
        }
        self._append({"step": step, **losses, **learning, **timing, **memory})
        runner.visualizer.add_scalars(
            {f"train/{name}": value for name, value in {**losses, **learning}.items()}, step=step
        )
        if losses.get("pseudo_instances") == 0 and not self.warned:
            self.warned = True
            self.progress.note(
                f"step {step}  none of the unlabelled images since step {step - self.steps} had a "
                "pseudo-label: they teach nothing. See `s4m cache info` and refine.min_score."
            )
        self.progress.losses(step, losses["loss"], timing["seconds_per_step"], losses.get("sam_seconds"))
        self.sums, self.steps, self.data_s = {}, 0, 0.0
        self.began = time.perf_counter()

    @master_only
    def _append(self, record: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    @master_only
    def _drop_lines_after(self, step: int) -> None:
        """After a kill, metrics.jsonl may be ahead of the checkpoint, or end in half a line."""
        kept = [record for record in read_metrics(self.path) if record["step"] <= step]
        write_text(self.path, "".join(f"{json.dumps(record)}\n" for record in kept))


class StopOnSignal(Hook):
    """On SIGTERM or SIGINT: finish the step, save, and raise `Interrupted`.

    In distributed training all ranks stop at the same step.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self.received = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over both signals for the duration; a second SIGINT acts as usual.

        A second SIGTERM does nothing: `timeout` sends it to the process and to its group, which is twice.
        """
        with answered(self._receive, SIGTERM, SIGINT) as self.usual:
            yield

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._stop_if_asked(runner, runner.iter + 1)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self._asked():
            # Ends the pass early, so that the averaging hook puts the trained weights back before saving.
            runner.call_hook("after_val_epoch", metrics={})
            self._stop_if_asked(runner, runner.iter)

    def leave(self) -> NoReturn:
        """Raise `Interrupted` for the signal received; all ranks together, when everything is saved."""
        raise Interrupted(self._asked())

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if number == SIGINT:
            signal.signal(SIGINT, self.usual[SIGINT])

    def _asked(self) -> int:
        asked = torch.tensor(self.received)
        all_reduce(asked, "max")
        return int(asked)

    def _stop_if_asked(self, runner: Any, step: int) -> None:
        number = self._asked()
        if not number:
            return
        save_now(runner, step)
        raise Interrupted(number)


def save_now(runner: Any, step: int) -> None:
    """Write the checkpoint of `step` (steps done so far), unless it is there already.

    Weights that are not finite are not saved: training goes back to the last checkpoint first.
    """
    if Path(runner.work_dir, f"iter_{step}.pth").exists():
        return
    if not _is_finite(runner.model):
        (recovery,) = (hook for hook in runner.hooks if isinstance(hook, RecoverFromNaN))
        recovery.go_back(runner)
    _saver(runner)._save_checkpoint_with_step(runner, step, meta={"epoch": 0, "iter": step})


class RecoverFromNaN(Hook):
    """Goes back to the last checkpoint when skipping steps does not help; gives up at the third time.

    An update by finite gradients may leave weights that are not finite, too. The next step tells, but before
    weights are validated or saved they are looked at: they would replace the checkpoint to go back to.

    Args:
        patience: skipped steps in a row that are tolerated while weights and statistics are finite.
        attempts: how often training may go back before it stops.
    """

    priority = "ABOVE_NORMAL"

    def __init__(self, patience: int = 3, attempts: int = 3) -> None:
        self.patience = patience
        self.attempts = attempts
        self.in_a_row = 0
        self.returns = 0
        self.image_ids: list[int] = []

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.image_ids = [sample.img_id for sample in data_batch["data_samples"]]
        failed = runner.optim_wrapper.failed
        self.in_a_row = self.in_a_row + 1 if failed else 0
        if failed:
            images = self._images_of_all_ranks()
            runner.logger.warning(f"step {runner.iter + 1} skipped: gradients not finite; image ids {images}")
        doubtful = failed or self._weights_are_used_now(runner)
        if self.in_a_row == self.patience or (doubtful and not _is_finite(runner.model)):
            self.go_back(runner)

    def go_back(self, runner: Any) -> None:
        """Take the weights, their average and the optimizer of the last checkpoint.

        Raises:
            UserError: with the image ids of the last batch, if there is none, or at the last attempt.
        """
        self.in_a_row = 0
        self.returns += 1
        images = self._images_of_all_ranks()
        checkpoint = latest_checkpoint(Path(runner.work_dir))
        if checkpoint is None or self.returns >= self.attempts:
            raise UserError(
                f"Loss, gradients or weights are not finite (NaN or Inf) at step {runner.iter + 1}; "
                f"skipping steps and going back to a checkpoint did not help (time {self.returns}).\n"
                f"Image ids of the last batch: {images}\n"
                "Look at these images and their annotations; lower optim_wrapper.optimizer.lr, "
                "or train with precision fp32."
            )
        runner.restore_weights(checkpoint)
        runner.logger.warning(f"back to the weights of {checkpoint}")

    def _weights_are_used_now(self, runner: Any) -> bool:
        """Whether a checkpoint or validation of the step just made is due."""
        intervals = (_saver(runner).interval, runner.val_interval)
        return self.is_last_train_iter(runner) or any(self.every_n_train_iters(runner, n) for n in intervals)

    def _images_of_all_ranks(self) -> list[int]:
        return [image_id for share in all_gather_object(self.image_ids) for image_id in share]


def _saver(runner: Any) -> CheckpointHook:
    (saver,) = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    return saver


def _is_finite(model: torch.nn.Module) -> bool:
    """Whether weights and buffers are: normalisation statistics take in a batch before its loss is known.

    All ranks answer alike, although statistics may be their own.
    """
    finite = torch.tensor(int(all(bool(value.isfinite().all()) for value in model.state_dict().values())))
    all_reduce(finite, "min")
    return bool(finite)


def _shown(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.1f}" for name, value in metrics.items())
