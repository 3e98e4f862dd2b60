"""What happens around each iteration: seeding, stopping on a signal or before the disk is full, and recovery
from NaN."""

import math
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import torch
from mmengine.dist import all_gather_object, all_reduce, get_comm_device, is_distributed
from mmengine.hooks import CheckpointHook, Hook

from s4m_cache.errors import require_space
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.signals import Interrupted, SignalReceiver
from s4m_pipeline.data.seeding import STEP_STREAM, seed_all
from s4m_pipeline.experiment.checkpoints import latest_checkpoint
from s4m_pipeline.train.distributed import on_first_rank
from s4m_pipeline.train.optim import AsyncScalar

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


class StopOnSignal(SignalReceiver, Hook):
    """On SIGTERM or SIGINT: finish the iteration, save, and raise `Interrupted`.

    In distributed training all ranks stop after the same iteration, the next one: signals are exchanged after
    each iteration and read after the next, so that no rank waits for them.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        super().__init__()
        self.shared_signal = AsyncScalar(torch.tensor(0))

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
        """As in a single process, but a second SIGINT has no effect in one of several.

        Who sends it to all of them sends it to the launcher, too, which passes it on.
        """
        if is_distributed():
            self.received = number
        else:
            super()._receive(number, frame)

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


class WatchDisk(Hook):
    """Stops a training before its checkpoints fill the disk: at its start, or just after one was saved.

    Room for one checkpoint more than are kept is required: final weights, labels and logs need some, too.

    Args:
        keep: checkpoints that are kept.
    """

    priority = "LOWEST"

    def __init__(self, keep: int) -> None:
        self.keep = keep

    def before_train(self, runner: Any) -> None:
        """Estimate what is needed, from an earlier checkpoint or else for AdamW with an EMA model."""
        weights = sum(value.nbytes for value in runner.network.state_dict().values())
        folder = Path(runner.work_dir)

        def check() -> None:
            saved = latest_checkpoint(folder)
            each = saved.stat().st_size if saved else 4 * weights
            missing = self.keep - len([*folder.glob("iter_*.pth")])
            require_space(folder, (max(missing, 0) + 1) * each, "saving the checkpoints of this training")

        on_first_rank(check)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        path = Path(runner.work_dir, f"iter_{runner.iter + 1}.pth")
        if self.every_n_train_iters(runner, _saver(runner).interval) and not self.is_last_train_iter(runner):
            on_first_rank(lambda: require_space(path, path.stat().st_size, "the next checkpoint"))


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
