"""Optimizer steps that are taken only when every gradient is finite."""

import math
from typing import Any

from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS


class _WatchedGradients(OptimWrapper):
    """Keeps the gradient norm of the last step; needs `clip_grad` with `max_norm`."""

    grad_norm: float = 0.0
    """Norm of all gradients before clipping; not finite if the step was skipped."""

    def _clip_grad(self) -> None:
        super()._clip_grad()
        # mmengine would keep every value to the end of the run and write them all into each checkpoint.
        self.grad_norm = float(self.message_hub.log_scalars.pop("train/grad_norm").current())


@OPTIM_WRAPPERS.register_module()
class FiniteOptimWrapper(_WatchedGradients):
    """Full precision; skips a step whose gradients hold NaN or Inf."""

    @property
    def failed(self) -> bool:
        """Whether the last step was skipped."""
        return not math.isfinite(self.grad_norm)

    def step(self, **kwargs: Any) -> None:
        """Clip, and update the weights if the gradients are finite."""
        self._clip_grad()
        if not self.failed:
            self.optimizer.step(**kwargs)


@OPTIM_WRAPPERS.register_module()
class FiniteAmpOptimWrapper(_WatchedGradients, AmpOptimWrapper):
    """Mixed precision; torch's gradient scaler skips the steps that are not finite."""

    @property
    def failed(self) -> bool:
        """Whether the last step was skipped for another reason than the search for a loss scale in fp16."""
        return not math.isfinite(self.grad_norm) and self.loss_scaler.get_scale() <= 1
