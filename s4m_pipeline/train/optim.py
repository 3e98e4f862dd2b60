"""Optimizer steps and averages: few and large operations, steps only when every gradient is finite."""

import math
from typing import Any

import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor, OptimWrapper
from torch import Tensor, nn


class AsyncScalar:
    """A number that is copied from its device meanwhile; reading it waits only if it has not arrived.

    Args:
        value: tensor of one element.
    """

    def __init__(self, value: Tensor) -> None:
        self._copy = value.detach().to("cpu", non_blocking=True)
        self._arrival = torch.cuda.Event() if value.is_cuda else None
        if self._arrival is not None:
            self._arrival.record()

    def __float__(self) -> float:
        if self._arrival is not None:
            self._arrival.synchronize()
        return float(self._copy)


class MergedGroups(DefaultOptimWrapperConstructor):
    """mmengine's rules for learning rates and decay, with one group for all parameters of equal settings.

    mmengine makes a group of each parameter. Optimizers loop over groups, so fused ones, which update
    hundreds of tensors in one operation, would get a single tensor at a time.
    """

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", **about: Any) -> None:
        """Append the groups of a module; mmengine also calls it for every submodule, with a `prefix`."""
        super().add_params(params, module, prefix=prefix, **about)
        if prefix:
            return
        merged: dict[tuple[Any, ...], dict] = {}
        for group in params:
            settings = {name: value for name, value in group.items() if name != "params"}
            same = merged.setdefault(tuple(sorted(settings.items())), {"params": [], **settings})
            same["params"] += group["params"]
        params[:] = merged.values()


class FewOperationsEma(ExponentialMovingAverage):
    """mmengine's EMA model, averaged in one operation instead of one for each of hundreds of tensors."""

    def update_parameters(self, model: nn.Module) -> None:
        """Average the parameters, and take the buffers, of `model`."""
        own, buffers = dict(model.named_parameters()), [*self.module.buffers()]
        given = [own[name].data for name in self.avg_parameters]
        average = [parameter.data for parameter in self.avg_parameters.values()]
        if self.steps:
            torch._foreach_lerp_(average, given, self.momentum)
        else:
            torch._foreach_copy_(average, given)
        if buffers:
            torch._foreach_copy_(buffers, [*model.buffers()])
        self.steps += 1


class _WatchedGradients(OptimWrapper):
    """Keeps the gradient norm of the last iteration; needs `clip_grad` with `max_norm`.

    mmengine would wait for each norm, keep all until the end of the run, and store them in each checkpoint.
    """

    grad_norm = AsyncScalar(torch.tensor(0.0))
    """Norm of all gradients before clipping; not finite if the update was skipped."""

    searching_scale = False
    """Whether updates are skipped in search of a loss scale."""

    def _clip_grad(self) -> None:
        parameters = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        self.grad_norm = AsyncScalar(nn.utils.clip_grad_norm_(parameters, **self.clip_grad_kwargs))


class FiniteOptimWrapper(_WatchedGradients):
    """Full precision; skips the update if gradients have NaN or Inf, for which it waits for the device."""

    def step(self, **kwargs: Any) -> None:
        """Clip, and update the weights if the gradients are finite."""
        self._clip_grad()
        if math.isfinite(float(self.grad_norm)):
            self.optimizer.step(**kwargs)


class FiniteAmpOptimWrapper(_WatchedGradients, AmpOptimWrapper):
    """Mixed precision; torch's gradient scaler skips updates that are not finite."""

    @property
    def searching_scale(self) -> bool:  # type: ignore[override]
        """Whether updates are skipped in search of a loss scale, in fp16; waits for the device."""
        return bool(self.loss_scaler.get_scale() > 1)
