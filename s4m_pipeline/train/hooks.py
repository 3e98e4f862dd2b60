"""What happens around each iteration: seeding, stopping on a signal, and recovery from NaN."""

import math
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import torch
from mmengine.dist import all_gather_object, all_reduce, get_comm_device, is_distributed
from mmengine.hooks import CheckpointHook, Hook

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.signals import Interrupted, handled_by
from s4m_pipeline.data.seeding import STEP_STREAM, seed_all
from s4m_pipeline.experiment.checkpoints import latest_checkpoint
from s4m_pipeline.train.async_scalar import AsyncScalar
from s4m_pipeline.train.distributed import on_first_rank

_PATIENCE = 3
"""Consecutive skipped iterations that are tolerated while weights and statistics are finite."""
_ATTEMPTS = 3
"""How often a checkpoint is restored before the training stops."""


class SeedEachStep(Hook):
    """Seeds all randomness of an iteration (sampled points, ARP, dropout) with (seed, iteration, rank).

    Args:
        seed: of the training.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        seed_all(self.seed, STEP_STREAM, runner.iter, runner.rank)


class StopOnSignal(Hook):
    """On SIGTERM or SIGINT: finish the iteration, save, and raise `Interrupted`.

    In distributed training all ranks stop after the same iteration, the next one: signals are exchanged after
    each iteration and read after the next, so that no rank waits for them.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self.received = 0
        self.shared_signal = AsyncScalar(torch.tensor(0))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle both signals in this context; a second SIGINT has its default effect.

        A second SIGTERM has none: `timeout` sends it twice, to the process and to its group.
        """
        with handled_by(self._receive, SIGTERM, SIGINT) as self.usual:
            yield

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        number = self.received
        if is_distributed():
            number, self.shared_signal = int(float(self.shared_signal)), self._signal_of_any_rank()
        self._stop(runner, runner.iter + 1, number)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if number := int(float(self._signal_of_any_rank())):
            # Ends the validation early, so that EMAHook swaps the trained weights back before they are saved.
            runner.call_hook("after_val_epoch", metrics={})
            self._stop(runner, runner.iter, number)

    def leave(self) -> NoReturn:
        """Raise `Interrupted` for the signal received; called by all ranks once everything is saved."""
        raise Interrupted(int(float(self._signal_of_any_rank())))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if number == SIGINT:
            signal.signal(SIGINT, self.usual[SIGINT])

    def _signal_of_any_rank(self) -> AsyncScalar:
        """The signal that any rank has received, or 0; called by all ranks."""
        device = get_comm_device() if is_distributed() else "cpu"
        received = torch.full((), self.received, device=device)
        all_reduce(received, "max")
        return AsyncScalar(received)

    def _stop(self, runner: Any, step: int, number: int) -> None:
        if number:
            save_now(runner, step)
            raise Interrupted(number)


def save_now(runner: Any, step: int) -> None:
    """Write the checkpoint after `step` iterations, unless it exists.

    Weights that are not finite are not saved: the last checkpoint is restored first.
    """
    # Asked once for all: other machines may see a new file later, and would then save alone.
    if on_first_rank(Path(runner.work_dir, f"iter_{step}.pth").exists):
        return
    if not _is_finite(runner.model):
        (recovery,) = (hook for hook in runner.hooks if isinstance(hook, RecoverFromNaN))
        recovery.restore(runner)
    _saver(runner)._save_checkpoint_with_step(runner, step, meta={"epoch": 0, "iter": step})


class _Iteration(NamedTuple):
    """One that `RecoverFromNaN` has not checked yet."""

    step: int
    image_ids: list[int]
    grad_norm: AsyncScalar


class RecoverFromNaN(Hook):
    """Restores the last checkpoint when skipping iterations does not help; gives up at the third time.

    Even an update with finite gradients may leave weights that are not finite. The next loss shows it, but
    weights are also checked before they are validated or saved, as they would replace the checkpoint that
    can be restored.

    """

    priority = "ABOVE_NORMAL"

    def __init__(self) -> None:
        self.in_a_row = 0
        self.returns = 0
        self.image_ids: list[int] = []
        self.unchecked: deque[_Iteration] = deque()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        images = [sample.img_id for sample in data_batch["data_samples"]]
        self.unchecked.append(_Iteration(runner.iter + 1, images, runner.optim_wrapper.grad_norm))
        used_now = self._weights_are_used_now(runner)
        # Each is checked after the next one, when its norm has been copied.
        while len(self.unchecked) > (0 if used_now else 1):
            self._check(runner, self.unchecked.popleft(), used_now)

    def _check(self, runner: Any, iteration: "_Iteration", used_now: bool) -> None:
        self.image_ids = iteration.image_ids
        failed = not math.isfinite(float(iteration.grad_norm)) and not runner.optim_wrapper.searching_scale
        self.in_a_row = self.in_a_row + 1 if failed else 0
        if failed:
            images = self._images_of_all_ranks()
            runner.logger.warning(
                f"iteration {iteration.step} skipped: gradients not finite; image ids {images}"
            )
        if self.in_a_row == _PATIENCE or ((failed or used_now) and not _is_finite(runner.model)):
            self.restore(runner)

    def restore(self, runner: Any) -> None:
        """Restore weights, EMA weights and optimizer state from the last checkpoint.

        Raises:
            UserError: naming the images of the last batch, without a checkpoint or at the last attempt.
        """
        self.in_a_row = 0
        self.unchecked.clear()
        self.returns += 1
        images = self._images_of_all_ranks()
        checkpoint = on_first_rank(lambda: latest_checkpoint(Path(runner.work_dir)))
        if checkpoint is None or self.returns >= _ATTEMPTS:
            raise UserError(
                f"Loss, gradients or weights are not finite (NaN or Inf) at iteration {runner.iter + 1}; "
                f"skipping iterations and restoring a checkpoint did not help (attempt {self.returns}).\n"
                f"Image ids of the last batch: {images}\n"
                "Check these images and their annotations, lower optim_wrapper.optimizer.lr, "
                "or train with precision fp32."
            )
        runner.restore_weights(checkpoint)
        runner.logger.warning(f"iteration {runner.iter + 1}: restored the weights of {checkpoint}")

    def _weights_are_used_now(self, runner: Any) -> bool:
        """Whether a checkpoint or validation is due after this iteration."""
        intervals = (_saver(runner).interval, runner.val_interval)
        return self.is_last_train_iter(runner) or any(self.every_n_train_iters(runner, n) for n in intervals)

    def _images_of_all_ranks(self) -> list[int]:
        return [image_id for share in all_gather_object(self.image_ids) for image_id in share]


def _saver(runner: Any) -> CheckpointHook:
    (saver,) = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    return saver


def _is_finite(model: torch.nn.Module) -> bool:
    """Whether all weights and buffers are; normalization statistics are updated before the loss is known.

    All ranks get the same answer, although each may have statistics of its own.
    """
    finite = torch.tensor(int(all(bool(value.isfinite().all()) for value in model.state_dict().values())))
    all_reduce(finite, "min")
    return bool(finite)
