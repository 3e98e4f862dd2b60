"""The weights of a training checkpoint, averaged or as trained last, for use outside of training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from s4m_pipeline.engine.checkpoint import Weights, load_checkpoint, read_weights
from s4m_pipeline.errors import UserError

Kind = Literal["ema", "student"]

_AVERAGED = "module."


@dataclass(frozen=True)
class ChosenWeights:
    """Weights, and what they are: "ema", "student", or None where the file does not say."""

    weights: Weights
    kind: Kind | None


def choose_weights(path: Path, kind: Kind | None, *, trust: bool = False) -> ChosenWeights:
    """Read one of the two sets of weights that a training checkpoint (.pth) may hold.

    mmengine's EMAHook stores the average under `state_dict`, where everybody looks, and the weights that the
    optimizer goes on with under `ema_state_dict`.

    Args:
        path: .pth, or .safetensors, which holds one set.
        kind: "ema" for the average, "student" for the weights after the last step; None: the average where
            there is one.
        trust: load a .pth even if its file runs code.

    Raises:
        UserError: if the file is not readable, or does not hold that set.
    """
    weights = read_weights(path, trust=trust)
    if path.suffix == ".safetensors":
        if kind is not None:
            raise UserError(
                f"{path} holds one set of weights, so there is nothing to choose.\n"
                "Leave --weights out, or give a training checkpoint (iter_N.pth)."
            )
        return ChosenWeights(weights, None)
    last = load_checkpoint(path, trust=trust).get("ema_state_dict")
    if last is None and kind == "ema":
        raise UserError(
            f"{path} holds no averaged weights: its training kept no average.\n"
            "Leave --weights out, or train with teacher.ema (student.ema) set."
        )
    if last is not None and kind == "student":
        tensors: dict[str, Tensor] = {
            name.removeprefix(_AVERAGED): value for name, value in last.items() if name.startswith(_AVERAGED)
        }
        weights = Weights(path, {**weights.tensors, **tensors}, weights.classes)
    found: Kind = "student" if last is None or kind == "student" else "ema"
    return ChosenWeights(weights, found)
