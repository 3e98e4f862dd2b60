"""Checkpoints that are written whole or not at all, and read without running anything stored in them."""

import functools
import json
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.logging import HistoryBuffer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cache.atomic import write_bytes
from cache.errors import free_space
from s4m_pipeline.errors import UserError

ATOMIC = {"backend": "atomic"}
"""`backend_args` that make mmengine's CheckpointHook write through `AtomicBackend`."""

TORCHVISION = "torchvision://"
"""Begins the name of weights that torchvision fetches, of a backbone alone."""

_CLASS_TENSORS = ("panoptic_head.cls_embed.", "panoptic_head.loss_cls.")
"""Tensors whose shape or meaning follows the list of classes."""

_PARTS = ("backbone.", "panoptic_head.pixel_decoder.")
"""Parts of a network that initial weights may hold without the rest."""

_FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@register_backend("atomic")
class AtomicBackend(LocalBackend):
    """mmengine's local files, with writing that a crash cannot leave half done."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a temporary name, sync, and rename.

        Raises:
            UserError: with the size needed and the space free, if the file system refuses.
        """
        _write(Path(filepath), obj)


@dataclass(frozen=True)
class Weights:
    """Tensors by name, with the classes they were trained for (None where the file does not say)."""

    path: Path
    tensors: dict[str, Tensor] = field(repr=False)
    classes: tuple[str, ...] | None


def load_checkpoint(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """Read a .pth file on the CPU without executing code from it.

    Besides tensors and plain containers, NumPy arrays and mmengine's `HistoryBuffer` are allowed.

    Args:
        trust: read a file whose pickle runs code, because it is one's own.

    Raises:
        UserError: if the file is missing, damaged, or holds code and is not trusted.
    """
    _require(path)
    try:
        with _code_refused(str(path)):
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is damaged or no checkpoint: {error}\n"
            "Delete it, or copy it again from where it came from."
        ) from error


@contextmanager
def no_code_from(source: str, *, trust: bool) -> Iterator[None]:
    """Whatever is loaded in this context, by mmengine say, is loaded as by `load_checkpoint`.

    Left to itself, mmengine reads a file with more than weights in it again, and then runs its code.

    Args:
        source: what is loaded, for the message.

    Raises:
        UserError: if it holds code and is not trusted.
    """
    usual = os.environ.get(_FORCED, "0")
    os.environ[_FORCED] = usual if trust else "1"
    try:
        with _code_refused(source):
            yield
    finally:
        os.environ[_FORCED] = usual


@contextmanager
def _code_refused(source: str) -> Iterator[None]:
    try:
        with torch.serialization.safe_globals(_allowed_globals()):
            yield
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{source} is a pickle with more than weights in it; loading it would run its code ({reason}).\n"
            "Expected: tensors in plain containers. Convert it to .safetensors where it came from, "
            "or pass --trust-checkpoint if you made it yourself."
        ) from error


def read_weights(path: Path, *, trust: bool = False) -> Weights:
    """Read the tensors of a .safetensors file or of a training checkpoint (.pth) on the CPU.

    Raises:
        UserError: as `load_checkpoint`.
    """
    if path.suffix == ".safetensors":
        _require(path)
        try:
            with safe_open(path, framework="pt") as file:
                classes = _listed_classes((file.metadata() or {}).get("classes", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
        except (SafetensorError, ValueError) as error:
            raise UserError(
                f"{path} is damaged: {error}\nDelete it, or copy it again from where it came from."
            ) from error
    else:
        checkpoint = load_checkpoint(path, trust=trust)
        tensors = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else None
        if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
            raise UserError(
                f"{path} holds other things than weights.\nExpected: a dictionary of tensors by name, or one "
                "with such a dictionary as `state_dict`. Take the tensors out of it and save them alone."
            )
        meta = checkpoint.get("meta", {})
        classes = meta.get("dataset_meta", {}).get("classes") if isinstance(meta, Mapping) else None
    return Weights(path, dict(tensors), tuple(classes) if classes else None)


def write_weights(path: Path, tensors: Mapping[str, Tensor], classes: tuple[str, ...], **about: str) -> None:
    """Write a .safetensors file atomically, with the class names and further texts in its header.

    Raises:
        UserError: as `AtomicBackend.put`.
    """
    metadata = {"classes": json.dumps(classes), **about}
    # Not through save_file, which makes files that nobody else may read.
    _write(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def _listed_classes(text: str) -> list[str] | None:
    """The class names in the header of a .safetensors file."""
    names = json.loads(text)
    if names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        return names
    raise ValueError(f"`classes` in its header is {text[:80]}, a list of names expected")


def require_classes(weights: Weights, classes: tuple[str, ...], source: str) -> None:
    """Refuse weights that were trained for other classes.

    Args:
        classes: names that are expected, in the order of the labels.
        source: where `classes` come from, for the message.

    Raises:
        UserError: with both lists.
    """
    if weights.classes is not None and weights.classes != classes:
        raise UserError(
            f"{weights.path} was trained for other classes.\n"
            f"  checkpoint ({len(weights.classes)}): {', '.join(weights.classes)}\n"
            f"  {source} ({len(classes)}): {', '.join(classes)}\n"
            "Use the data set it belongs to. To start training from it without its class layer, "
            "pass --allow-partial."
        )


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Put weights into a model; every tensor of both must match.

    Raises:
        UserError: naming what is missing, unknown, or of another shape.
    """
    _refuse_mismatch(model, weights, ("",), "Use the config that the checkpoint was trained with.")
    model.load_state_dict(weights.tensors)


def require_fit(model: nn.Module, weights: Weights, classes: tuple[str, ...]) -> None:
    """Refuse initial weights of anything but the whole model, or the whole of some of its `_PARTS`.

    Args:
        classes: the model's.

    Raises:
        UserError: on other classes, or naming the tensors that do not fit or are missing.
    """
    require_classes(weights, classes, "labelled data")
    needed: tuple[str, ...] = ("",)
    if all(name.startswith(_PARTS) for name in weights.tensors):
        needed = tuple(part for part in _PARTS if any(name.startswith(part) for name in weights.tensors))
    _refuse_mismatch(model, weights, needed, "Pass --allow-partial to start from what fits.")


def initialise(model: nn.Module, weights: Weights, classes: tuple[str, ...]) -> str:
    """Start a model from those weights that fit; of weights for other classes, without the class layer.

    Args:
        classes: the model's.

    Returns:
        One line on what was taken.

    Raises:
        UserError: if nothing fits.
    """
    own = model.state_dict()
    other_classes = weights.classes not in (None, classes)
    fitting = {
        name: value
        for name, value in weights.tensors.items()
        if name in own
        and own[name].shape == value.shape
        and not (other_classes and name.startswith(_CLASS_TENSORS))
    }
    if not fitting:
        raise UserError(
            f"{weights.path}: none of its {len(weights.tensors)} tensors fits the model of this config.\n"
            "Expected weights of such a network or of its backbone. Give another file as init_from, or None."
        )
    model.load_state_dict(fitting, strict=False)
    return f"{len(fitting)} of {len(own)} tensors start from {weights.path}"


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint `iter_N.pth` with the highest N, or None."""
    return max(folder.glob("iter_*.pth"), key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """Steps done when `iter_N.pth` was written."""
    return int(checkpoint.stem.removeprefix("iter_"))


def _write(path: Path, content: bytes) -> None:
    try:
        write_bytes(path, content)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror}; {len(content):,} bytes needed, "
            f"{free_space(path)}.\n"
            "Earlier checkpoints are intact: make room and repeat the command."
        ) from error


def _require(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"No checkpoint at {path}.\nExpected a .safetensors or .pth file.")


def _refuse_mismatch(model: nn.Module, weights: Weights, needed: tuple[str, ...], remedy: str) -> None:
    """Refuse weights with a tensor that does not fit, or without one whose name begins as in `needed`."""
    own = model.state_dict()
    faults = []
    for name, value in weights.tensors.items():
        if name not in own:
            faults.append(f"{name}: not in the model")
        elif own[name].shape != value.shape:
            faults.append(f"{name}: {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the model")
    faults += [
        f"{name}: not in the file" for name in own if name.startswith(needed) and name not in weights.tensors
    ]
    if faults:
        shown = "\n  ".join(faults[:10]) + (f"\n  and {len(faults) - 10} more" if len(faults) > 10 else "")
        raise UserError(f"{weights.path} does not fit the model of this config:\n  {shown}\n{remedy}")


@functools.cache
def _allowed_globals() -> list[Any]:
    reconstruct = np.empty(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "uint8", "float32", "float64")}
    scalar = np.float64(0).__reduce__()[0]
    return [
        reconstruct,
        scalar,
        np.ndarray,
        np.dtype,
        *dtypes,
        HistoryBuffer,
        # HistoryBuffer pickles its own methods as getattr(HistoryBuffer, name).
        (_getattr_of_history_buffer, "builtins.getattr"),
        (_getattr_of_history_buffer, "__builtin__.getattr"),
    ]


def _getattr_of_history_buffer(owner: Any, name: str) -> Any:
    if owner is not HistoryBuffer or name.startswith("_"):
        raise pickle.UnpicklingError(f"getattr({owner!r}, {name!r}) is not allowed")
    return getattr(owner, name)
