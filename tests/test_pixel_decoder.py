"""The forms of deformable attention on a GPU, with CPU tensors that say that they are on one."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from s4m_pipeline.models.registry import register_all
from tests.conftest import REPOSITORY

SIZES = [(3, 4), (6, 8)]


class PretendCuda(torch.Tensor):
    """A CPU tensor that says it is on a GPU, as does everything computed from it."""

    is_cuda = True  # type: ignore[assignment]


@pytest.fixture
def pixel_decoder() -> Any:
    register_all()
    from s4m_pipeline.models import pixel_decoder

    return pixel_decoder


def make_inputs(
    dtype: torch.dtype = torch.float32, width: int = 8
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Values, locations of each level (some outside) and weights: 2 images, 60 tokens, 2 heads, 2 points."""
    torch.manual_seed(0)
    values = torch.randn(2, 60, 2, width, dtype=dtype, requires_grad=True)
    locations = [(1.4 * torch.rand(2, 60, 2, 2, 2) - 0.2).requires_grad_() for _ in SIZES]
    return values, locations, torch.rand(2, 60, 2, 2, 2).softmax(-1).requires_grad_()


def test_attend__recomputed_in_backward__is_equal_with_its_gradients(
    pixel_decoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_decoder, "fused_attention_works", lambda device: False)
    values, locations, weights = make_inputs()
    told = []
    for kind in (torch.Tensor, PretendCuda):
        attended = pixel_decoder.attend(values.as_subclass(kind), SIZES, locations, weights)
        gradients = torch.autograd.grad(attended.square().sum(), [values, *locations, weights])
        told.append([attended, *gradients])
    for plain, recomputed in zip(*told, strict=True):
        assert torch.equal(plain, recomputed.as_subclass(torch.Tensor))


def test_attend__with_compiled_operator__bf16_values_and_exact_locations_reach_it(
    pixel_decoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(values: Any, shapes: Any, starts: Any, locations: Any, weights: Any, step: int) -> torch.Tensor:
        assert values.dtype == locations.dtype == weights.dtype == torch.float32
        assert shapes.tolist() == [[3, 4], [6, 8]] and starts.tolist() == [0, 12]
        split = locations.unbind(3)
        return reference(values.as_subclass(torch.Tensor), SIZES, split, weights)

    reference = pixel_decoder.attend
    monkeypatch.setattr(pixel_decoder, "compiled_ops_present", lambda: True)
    operator = SimpleNamespace(MultiScaleDeformableAttnFunction=SimpleNamespace(apply=apply))
    monkeypatch.setattr(pixel_decoder, "mmcv_attention", operator)
    values, locations, weights = make_inputs(torch.bfloat16)
    attended = pixel_decoder.attend(values.as_subclass(PretendCuda), SIZES, locations, weights)
    assert attended.dtype == torch.bfloat16
    expected = reference(values.float(), SIZES, locations, weights)
    torch.testing.assert_close(attended.as_subclass(torch.Tensor), expected.bfloat16())


INTERPRETED = """
import warnings
import torch
from s4m_pipeline.models.registry import register_all
from tests.conftest import REPOSITORY
register_all()
from s4m_pipeline.models import fused_attention, pixel_decoder
from tests.test_pixel_decoder import SIZES, PretendCuda, make_inputs

for dtype, width, bound in ((torch.float32, 8, 1e-5), (torch.bfloat16, 6, 1e-2)):
    values, locations, weights = make_inputs(dtype, width)
    inputs = [values, *locations, weights]
    fused = pixel_decoder.attend(values.as_subclass(PretendCuda), SIZES, locations, weights)
    plain = pixel_decoder.attend_by_level(values.float(), SIZES, locations, weights, recompute=False)
    assert fused.dtype == dtype and fused.shape == plain.shape
    factors = torch.randn(plain.shape)
    told = [[sums, *torch.autograd.grad((factors * sums).sum(), inputs)] for sums in (fused, plain)]
    for found, expected in zip(*told, strict=True):
        found, expected = found.as_subclass(torch.Tensor).float(), expected.float()
        assert (found - expected).abs().max() <= bound * expected.abs().max(), (dtype, found, expected)

cpu = torch.device("cpu")
assert pixel_decoder.fused_attention_works(cpu)
pixel_decoder.fused_attention_works.cache_clear()
right = fused_attention.deformable_attention
fused_attention.deformable_attention = lambda *arguments: 1.1 * right(*arguments)
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    assert not pixel_decoder.fused_attention_works(cpu)
print(warned[-1].message)
"""


def test_fused_attention__interpreted__is_plain_torch_with_its_gradients_and_a_fault_is_noticed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    assert "runs in plain torch: its kernel failed (sums differ by 0." in done.stdout
