"""Repeatable trainings on a GPU: operations for which torch has no deterministic kernel are replaced."""

import itertools
import os
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class DeterministicForms(TorchFunctionMode):
    """Context that replaces running sums, and sampling with a gradient, of CUDA tensors.

    With `torch.use_deterministic_algorithms`, which mmengine calls, torch refuses `cumsum` of floats and the
    gradient of `grid_sample` there. It is entered before the device multiplies matrices, because cuBLAS reads
    its setting once.
    """

    def __init__(self) -> None:
        super().__init__()
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].is_cuda:
            if func in (torch.cumsum, Tensor.cumsum):
                return _running_sum(*args, **kwargs)
            if func is F.grid_sample:
                return sample_bilinear(*args, **kwargs)
        return func(*args, **kwargs)


def _running_sum(values: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    if not values.is_floating_point():  # positions: whole numbers, summed as such
        return values.cumsum(dim).to(dtype or torch.int64)
    return values.cpu().cumsum(dim, dtype=dtype).to(values.device)


def sample_bilinear(
    values: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = False,
) -> Tensor:
    """As `F.grid_sample`, bilinear and without aligned corners, but its gradient is that of `gather`.

    Args:
        values: (B, C, H, W).
        grid: (B, h, w, 2) x, y in [-1, 1].

    Returns:
        (B, C, h, w).

    Raises:
        NotImplementedError: for other modes.
    """
    if mode != "bilinear" or align_corners or padding_mode not in ("zeros", "border"):
        raise NotImplementedError(f"deterministic grid_sample: {mode}, {padding_mode}, {align_corners}")
    height, width = values.shape[2:]
    x, y = (((grid[..., axis] + 1) * size - 1) / 2 for axis, size in enumerate((width, height)))
    if padding_mode == "border":
        x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.floor(), y.floor()
    flat, corners = values.flatten(2), []
    for right, below in itertools.product((0, 1), (0, 1)):
        column, row = left + right, top + below
        share = (x - left if right else 1 - (x - left)) * (y - top if below else 1 - (y - top))
        share = share * ((column >= 0) & (column < width) & (row >= 0) & (row < height))
        # Positions that are not finite must still be indices of a pixel.
        column, row = (
            each.nan_to_num(0).clamp(0, size - 1) for each, size in ((column, width), (row, height))
        )
        pixel = (row * width + column).long().flatten(1)[:, None]  # (B, 1, h * w)
        corner = flat.gather(2, pixel.expand(-1, values.shape[1], -1))
        corners.append(corner * share.flatten(1)[:, None])
    return reduce(torch.add, corners).unflatten(2, grid.shape[1:3])
