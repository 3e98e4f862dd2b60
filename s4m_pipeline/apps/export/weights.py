"""The weights of a training checkpoint: the EMA weights, or those of the last iteration."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.models.checkpoint import Weights, read_weights
from s4m_pipeline.models.unpickling import load_checkpoint

Kind = Literal["ema", "student"]

_AVERAGED = "module."


@dataclass(frozen=True)
class ChosenWeights:
    """Weights, and what they are: "ema", "student", or None where the file does not say."""

    weights: Weights
    kind: Kind | None


def choose_weights(path: Path, kind: Kind | None, *, trust: bool = False) -> ChosenWeights:
    """Read one of the two sets of weights that a training checkpoint (.pth) may hold.

    mmengine's EMAHook stores the EMA weights under `state_dict`, and the weights that the optimizer updates
    under `ema_state_dict`.

    Args:
        path: .pth, .safetensors, which holds one set, or published weights, as `find_weights` takes them.
        kind: "ema" for the EMA weights, "student" for those after the last iteration; None: the EMA
            weights if there are any.
        trust: load a .pth even if its file runs code.

    Raises:
        UserError: if the file is not readable, or does not hold that set.
    """
    weights = read_weights(path, trust=trust)
    if weights.published or path.suffix == ".safetensors":
        if kind is not None:
            raise UserError(
                f"{path} holds one set of weights, so there is nothing to choose.\n"
                "Leave --weights out, or give a training checkpoint (iter_N.pth)."
            )
        return ChosenWeights(weights, None)
    last = load_checkpoint(path, trust=trust).get("ema_state_dict")
    if last is None and kind == "ema":
        raise UserError(
            f"{path} holds no EMA weights: its training had no EMA.\n"
            "Leave --weights out, or train with teacher.ema (student.ema) set."
        )
    if last is not None and kind == "student":
        tensors: dict[str, Tensor] = {
            name.removeprefix(_AVERAGED): value for name, value in last.items() if name.startswith(_AVERAGED)
        }
        weights = replace(weights, tensors={**weights.tensors, **tensors})
    found: Kind = "student" if last is None or kind == "student" else "ema"
    return ChosenWeights(weights, found)
