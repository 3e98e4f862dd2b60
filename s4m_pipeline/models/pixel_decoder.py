"""mmdet's pixel decoder whose shapes stay on the CPU: no operation waits for the device.

Axes: B images, L tokens of all levels, coarsest first, C width, n levels, H heads, D = C / H, P points.
"""

import importlib.util
import itertools
import warnings
from collections.abc import Sequence
from functools import lru_cache, partial, reduce

import mmcv.ops.multi_scale_deform_attn as mmcv_attention
import torch
import torch.nn.functional as F
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.layers import MSDeformAttnPixelDecoder
from mmdet.registry import MODELS
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from s4m_pipeline.models.registry import compiled_ops_present

Sizes = Sequence[tuple[int, int]]
"""Height and width of each level, in tokens."""

_IMAGES_AT_A_TIME = 64
"""mmcv's default for its compiled operator."""


@MODELS.register_module()
class SteadyPixelDecoder(MSDeformAttnPixelDecoder):
    """`MSDeformAttnPixelDecoder` with the same weights and the same numbers.

    mmdet keeps the sizes of the levels in tensors on the device, and reads them back dozens of times. mmcv's
    layer does not use its compiled operator for bf16; here it is used whenever it exists.

    Args: those of mmdet's.
    """

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Mask features (B, C, h, w) of the finest level, and those of `num_outs` levels, coarsest first.

        Args:
            feats: feature maps (B, channels, h, w) of the backbone, finest first.
        """
        coarse = list(reversed(feats))[: self.num_encoder_levels]
        sizes: Sizes = [(level.shape[-2], level.shape[-1]) for level in coarse]
        maps = [convolution(level) for convolution, level in zip(self.input_convs, coarse, strict=True)]
        places = [
            self.postional_encoding(None, level) + of_level[:, None, None]
            for level, of_level in zip(coarse, self.level_encoding.weight, strict=True)
        ]
        tokens, positions = (
            torch.cat([level.flatten(2).mT for level in levels], dim=1) for levels in (maps, places)
        )
        centers = _centers(sizes, tokens.device)
        for layer in self.encoder.layers:
            attended = _attend(layer.self_attn, tokens, tokens + positions, centers, sizes)
            tokens = layer.norms[1](layer.ffn(layer.norms[0](attended + tokens)))
        outputs = [
            level.mT.unflatten(2, size)
            for level, size in zip(tokens.split([h * w for h, w in sizes], dim=1), sizes, strict=True)
        ]
        fine = list(reversed(feats))[self.num_encoder_levels :]
        for lateral, output, level in zip(self.lateral_convs, self.output_convs, fine, strict=True):
            above = F.interpolate(outputs[-1], level.shape[-2:], mode="bilinear", align_corners=False)
            outputs.append(output(lateral(level) + above))
        return self.mask_feature(outputs[-1]), outputs[: self.num_outs]


def _centers(sizes: Sizes, device: torch.device) -> Tensor:
    """(L, 2) float32 x, y in (0, 1) of each token's center."""
    levels = []
    for height, width in sizes:
        y, x = ((torch.arange(side, device=device) + 0.5) / side for side in (height, width))
        levels.append(torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1))
    return torch.cat(levels)


def _attend(
    layer: MultiScaleDeformableAttention,
    tokens_BLC: Tensor,
    placed_BLC: Tensor,
    centers: Tensor,
    sizes: Sizes,
) -> Tensor:
    """Deformable attention of tokens at their places to tokens, (B, L, C), with dropout."""
    heads, levels, points = layer.num_heads, layer.num_levels, layer.num_points
    values_BLHD = layer.value_proj(tokens_BLC).unflatten(2, (heads, -1))
    offsets = layer.sampling_offsets(placed_BLC).unflatten(2, (heads, levels, points, 2))
    weights = layer.attention_weights(placed_BLC).unflatten(2, (heads, levels * points)).softmax(-1)
    x, y = (center[:, None, None] for center in centers.unbind(-1))  # (L, 1, 1)
    # Offsets are in tokens of their level: (B, L, H, n, P, 2) -> n times (B, L, H, P, 2) in (0, 1).
    locations = [
        torch.stack([x + offset[..., 0] / width, y + offset[..., 1] / height], dim=-1)
        for offset, (height, width) in zip(offsets.unbind(3), sizes, strict=True)
    ]
    attended = attend(values_BLHD, sizes, locations, weights.unflatten(3, (levels, points)))
    return layer.dropout(layer.output_proj(attended))


def attend(values_BLHD: Tensor, sizes: Sizes, locations: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Weighted sums (B, L, C) of values sampled at points.

    On a GPU by mmcv's compiled operator if there is one, else by our kernel if it works there.

    Args:
        values_BLHD: of the tokens.
        sizes: of the n levels.
        locations: n times (B, L, H, P, 2) x, y in [0, 1] of a level.
        weights: (B, L, H, n, P).
    """
    # The gradients of both kernels are sums in any order; and deterministic forms are replaced in
    # the thread that computes forward, whereas a checkpoint computes once more in that of backward.
    fast = values_BLHD.is_cuda and not torch.are_deterministic_algorithms_enabled()
    if fast and compiled_ops_present():
        shapes, starts = _shapes_and_starts(tuple(sizes), values_BLHD.device)
        # It has no kernel for bf16, and would round locations to the dtype of the values.
        attended: Tensor = mmcv_attention.MultiScaleDeformableAttnFunction.apply(
            values_BLHD.float(),
            shapes,
            starts,
            torch.stack([*locations], dim=3),
            weights,
            _IMAGES_AT_A_TIME,
        )
        return attended.to(values_BLHD.dtype)
    if fast and fused_attention_works(values_BLHD.device):
        from s4m_pipeline.models.fused_attention import deformable_attention

        shapes, starts = _shapes_and_starts(tuple(sizes), values_BLHD.device)
        stacked = torch.stack([*locations], dim=3).float()
        fused: Tensor = deformable_attention(values_BLHD, shapes, starts, stacked, weights)
        return fused
    return attend_by_level(values_BLHD, sizes, locations, weights, recompute=fast)


def attend_by_level(
    values_BLHD: Tensor, sizes: Sizes, locations: Sequence[Tensor], weights: Tensor, *, recompute: bool
) -> Tensor:
    """`attend` in plain torch.

    Args:
        recompute: what is sampled is not kept for backward, but sampled again.
    """
    # The sampled values, P for each token, would take a third of the memory that a training step keeps.
    recomputed = partial(checkpoint, _sample_level, use_reentrant=False, preserve_rng_state=False)
    sample = recomputed if recompute and torch.is_grad_enabled() else _sample_level
    levels = values_BLHD.split([height * width for height, width in sizes], dim=1)
    sampled = reduce(
        torch.add,
        (
            sample(level.permute(0, 2, 3, 1).unflatten(3, size), location, weight)
            for level, size, location, weight in zip(levels, sizes, locations, weights.unbind(3), strict=True)
        ),
    )
    return sampled.unflatten(0, (values_BLHD.shape[0], -1)).permute(0, 3, 1, 2).flatten(2)


def _sample_level(values: Tensor, location: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums (B * H, D, L) of values (B, H, D, h, w) at (B, L, H, P, 2), with weights (B, L, H, P)."""
    grid = 2 * location.transpose(1, 2).flatten(0, 1) - 1
    sampled = F.grid_sample(values.flatten(0, 1), grid, align_corners=False)  # (B * H, D, L, P)
    return (sampled * weight.transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)


@lru_cache
def fused_attention_works(device: torch.device) -> bool:
    """Whether our kernel compiles for the device, and gives the values and gradients of plain torch.

    Compared once in a process, on a few tokens; if they are not, a warning says so.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        fault = _fault_of_fused_attention(device)
    except Exception as error:  # Triton lacks a C compiler, does not support the GPU, ...
        fault = f"{type(error).__name__}: {error}"
    if fault:
        warnings.warn(f"Deformable attention runs in plain torch: its kernel failed ({fault})", stacklevel=2)
    return not fault


@torch.enable_grad()
def _fault_of_fused_attention(device: torch.device) -> str:
    """How far the kernel is from plain torch, in bf16; empty if it is not."""
    from s4m_pipeline.models.fused_attention import deformable_attention

    sizes = ((2, 3), (5, 6))
    numbers = 7.3 * torch.arange(36 * 2 * 32, device=device)  # of no random stream
    values = numbers.sin().reshape(1, 36, 2, 32).bfloat16().requires_grad_()
    locations = (0.5 + 0.7 * numbers[:576].cos()).reshape(1, 36, 2, 2, 2, 2).requires_grad_()
    weights = numbers[:288].sin().square().reshape(1, 36, 2, 2, 2).requires_grad_()
    inputs = [values, locations, weights]
    with torch.autocast(device.type, enabled=False):
        ours = deformable_attention(values, *_shapes_and_starts(sizes, device), locations, weights)
        plain = attend_by_level(values.float(), sizes, locations.unbind(3), weights, recompute=False)
        factors = numbers.cos().view_as(plain)
        told = [[it, *torch.autograd.grad((factors * it).sum(), inputs)] for it in (ours, plain)]
    for name, found, expected in zip(("sums", "values", "locations", "weights"), *told, strict=True):
        error = ((found.float() - expected.float()).abs().max() / expected.float().abs().max()).item()
        if not error < 0.02:  # rounding of bf16 is 0.004
            return f"{name} differ by {error:.2g} of their maximum"
    return ""


@lru_cache
def _shapes_and_starts(sizes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The sizes of the levels and their first tokens, int64 (n, 2) and (n,) on a device."""
    starts = [0, *itertools.accumulate(height * width for height, width in sizes[:-1])]
    return torch.tensor(sizes, device=device), torch.tensor(starts, device=device)
