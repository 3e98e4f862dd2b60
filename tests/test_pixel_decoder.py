"""The forms of deformable attention on a GPU, with CPU tensors that say that they are on one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from s4m_pipeline.models.registry import register_all

SIZES = [(3, 4), (6, 8)]


class PretendCuda(torch.Tensor):
    """A CPU tensor that says it is on a GPU, as does everything computed from it."""

    is_cuda = True  # type: ignore[assignment]


@pytest.fixture
def pixel_decoder() -> Any:
    register_all()
    from s4m_pipeline.models import pixel_decoder

    return pixel_decoder


def make_inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Values, locations of each level (some outside) and weights: 2 images, 60 tokens, 4 heads, 3 points."""
    torch.manual_seed(0)
    values = torch.randn(2, 60, 4, 8, dtype=dtype, requires_grad=True)
    locations = [(1.4 * torch.rand(2, 60, 4, 3, 2) - 0.2).requires_grad_() for _ in SIZES]
    return values, locations, torch.rand(2, 60, 4, 2, 3).softmax(-1).requires_grad_()


def test_attend__recomputed_in_backward__is_equal_with_its_gradients(pixel_decoder: Any) -> None:
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
