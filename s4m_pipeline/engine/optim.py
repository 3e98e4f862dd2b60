"""Optimizer steps: few and large operations, and only when every gradient is finite."""

import math
from typing import Any

from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedGroups(DefaultOptimWrapperConstructor):
    """mmengine's rules for rates and decay by parameter, with one group for all parameters of equal settings.

    mmengine makes a group of every parameter, and an optimizer works group by group, so that one which could
    update hundreds of tensors at once never has more than one.
    """

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", **about: Any) -> None:
        """Append the groups of a module; mmengine calls it for every part of the network, too."""
        super().add_params(params, module, prefix=prefix, **about)
        if prefix:
            return
        merged: dict[tuple[Any, ...], dict] = {}
        for group in params:
            settings = {name: value for name, value in group.items() if name != "params"}
            same = merged.setdefault(tuple(sorted(settings.items())), {"params": [], **settings})
            same["params"] += group["params"]
        params[:] = merged.values()


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
