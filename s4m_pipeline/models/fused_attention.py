"""Deformable attention in one kernel, in Triton: values in any precision, locations and sums in float32.

The sampling of Deformable DETR (arXiv 2010.04159, equation 3), with zeros outside of a level, as
`grid_sample(align_corners=False)`. For backward it keeps its arguments, but not what it samples. Gradients of
values are added in any order.

Axes: B images, L tokens, S values (tokens of all n levels), H heads, D channels of a head, P points.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TOKENS = 32
"""Of a program; it computes one head of them."""


@triton.jit
def _load_point(
    shapes, locations, weights, level: tl.constexpr, point: tl.constexpr, first, valid, POINTS: tl.constexpr
):
    """Sizes of the level; of each point the cell left of and above it, place within, weight and index."""
    height, width = tl.load(shapes + 2 * level), tl.load(shapes + 2 * level + 1)
    index = first + level * POINTS + point
    x = tl.load(locations + 2 * index, mask=valid, other=0.0) * width - 0.5
    y = tl.load(locations + 2 * index + 1, mask=valid, other=0.0) * height - 0.5
    weight = tl.load(weights + index, mask=valid, other=0.0).to(tl.float32)
    left, top = tl.floor(x), tl.floor(y)
    return height, width, left.to(tl.int32), top.to(tl.int32), x - left, y - top, weight, index


@triton.jit
def _forward(
    values, shapes, starts, locations, weights, sums, L, S, H: tl.constexpr, D: tl.constexpr,
    LEVELS: tl.constexpr, POINTS: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    image, head = (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    channel = tl.arange(0, CHANNELS)
    valid, real = token < L, channel < D
    first = ((image * L + token) * H + head) * LEVELS * POINTS
    total = tl.zeros([TOKENS, CHANNELS], tl.float32)
    for level in tl.static_range(LEVELS):
        start = image * S + tl.load(starts + level)
        for point in tl.static_range(POINTS):
            height, width, left, top, x, y, weight, _ = _load_point(
                shapes, locations, weights, level, point, first, valid, POINTS
            )
            for corner in tl.static_range(4):
                column, row = left + corner % 2, top + corner // 2
                inside = valid & (column >= 0) & (column < width) & (row >= 0) & (row < height)
                share = (x if corner % 2 else 1 - x) * (y if corner // 2 else 1 - y)
                place = ((start + row * width + column) * H + head) * D
                value = tl.load(
                    values + place[:, None] + channel[None, :],
                    mask=inside[:, None] & real[None, :],
                    other=0.0,
                )
                total += (weight * share)[:, None] * value.to(tl.float32)
    place = ((image * L + token) * H + head) * D
    tl.store(sums + place[:, None] + channel[None, :], total, mask=valid[:, None] & real[None, :])


@triton.jit
def _backward(
    values, shapes, starts, locations, weights, of_sums, of_values, of_locations, of_weights, L, S,
    H: tl.constexpr, D: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    image, head = (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    channel = tl.arange(0, CHANNELS)
    valid, real = token < L, channel < D
    first = ((image * L + token) * H + head) * LEVELS * POINTS
    place = ((image * L + token) * H + head) * D
    gradient = tl.load(
        of_sums + place[:, None] + channel[None, :], mask=valid[:, None] & real[None, :], other=0.0
    ).to(tl.float32)
    for level in tl.static_range(LEVELS):
        start = image * S + tl.load(starts + level)
        for point in tl.static_range(POINTS):
            height, width, left, top, x, y, weight, index = _load_point(
                shapes, locations, weights, level, point, first, valid, POINTS
            )
            of_x = tl.zeros([TOKENS], tl.float32)
            of_y = tl.zeros([TOKENS], tl.float32)
            of_weight = tl.zeros([TOKENS], tl.float32)
            for corner in tl.static_range(4):
                column, row = left + corner % 2, top + corner // 2
                inside = valid & (column >= 0) & (column < width) & (row >= 0) & (row < height)
                beside = x if corner % 2 else 1 - x
                below = y if corner // 2 else 1 - y
                place = ((start + row * width + column) * H + head) * D
                mask = inside[:, None] & real[None, :]
                value = tl.load(values + place[:, None] + channel[None, :], mask=mask, other=0.0)
                product = tl.sum(value.to(tl.float32) * gradient, axis=1)
                of_weight += beside * below * product
                of_x += (below if corner % 2 else -below) * product
                of_y += (beside if corner // 2 else -beside) * product
                tl.atomic_add(
                    of_values + place[:, None] + channel[None, :],
                    (weight * beside * below)[:, None] * gradient,
                    mask=mask,
                )
            tl.store(of_weights + index, of_weight, mask=valid)
            tl.store(of_locations + 2 * index, weight * width * of_x, mask=valid)
            tl.store(of_locations + 2 * index + 1, weight * height * of_y, mask=valid)


@torch.library.custom_op("s4m::deformable_attention", mutates_args=())
def deformable_attention(
    values: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sums (B, L, H * D) of sampled values, in their dtype.

    Args:
        values: (B, S, H, D).
        shapes: int64 (n, 2), height and width of each level, in tokens.
        starts: int64 (n,), the first token of each level.
        locations: float32 (B, L, H, n, P, 2), x, y in [0, 1] of a level.
        weights: (B, L, H, n, P).
    """
    sums = _sums(values, shapes, starts, locations, weights)
    grid, sizes = _launch(values, locations)
    arguments = (values.contiguous(), shapes, starts, locations.contiguous(), weights.contiguous())
    _forward[grid](*arguments, sums, **sizes)
    return sums


@torch.library.custom_op("s4m::deformable_attention_backward", mutates_args=())
def _gradients(
    values: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, of_sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    of_values = torch.zeros(values.shape, dtype=torch.float32, device=values.device)
    of_locations, of_weights = (torch.empty_like(t, dtype=torch.float32) for t in (locations, weights))
    grid, sizes = _launch(values, locations)
    arguments = (values.contiguous(), shapes, starts, locations.contiguous(), weights.contiguous())
    _backward[grid](*arguments, of_sums.contiguous(), of_values, of_locations, of_weights, **sizes)
    return of_values.to(values.dtype), of_locations, of_weights.to(weights.dtype)


def _launch(values: Tensor, locations: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    (images, tokens, heads, levels, points, _), channels = locations.shape, values.shape[3]
    sizes = {"L": tokens, "S": values.shape[1], "H": heads, "D": channels}
    sizes |= {"LEVELS": levels, "POINTS": points, "TOKENS": _TOKENS}
    sizes["CHANNELS"] = triton.next_power_of_2(channels)
    return (triton.cdiv(tokens, _TOKENS), images * heads), sizes


@deformable_attention.register_fake
def _sums(values: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    images, tokens = locations.shape[:2]
    return values.new_empty(images, tokens, values.shape[2] * values.shape[3])


@_gradients.register_fake
def _like_inputs(
    values: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, of_sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(values), torch.empty_like(locations), torch.empty_like(weights)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, of_sums: Tensor) -> tuple[Tensor | None, ...]:
    of_values, of_locations, of_weights = _gradients(*ctx.saved_tensors, of_sums)
    return of_values, None, None, of_locations, of_weights


deformable_attention.register_autograd(_differentiate, setup_context=_keep)
