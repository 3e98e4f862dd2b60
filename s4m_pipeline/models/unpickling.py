"""Pickled checkpoints, read without running code that they hold."""

import codecs
import errno
import functools
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from s4m_pipeline.core.errors import UserError

_FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_REFUSED = " is not allowed"
"""How reasons end for which an unpickler here refuses what a file would call."""


def load_checkpoint(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """Read a .pth or .pkl file on the CPU without executing code from it.

    Besides tensors and plain containers, NumPy arrays and mmengine's `HistoryBuffer` are allowed.

    Args:
        trust: also read a file whose pickle runs code.

    Raises:
        UserError: if the file is missing, damaged, or holds code and is not trusted.
    """
    require_checkpoint(path)
    try:
        with _code_refused(str(path)):
            if path.suffix == ".pkl":
                with path.open("rb") as file:
                    return (pickle.Unpickler if trust else _ArraysOnly)(file, encoding="latin1").load()
            _require_whole(path)
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except UserError:
        raise
    except Exception as error:  # unpicklers raise many kinds of exceptions on damaged bytes
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is an offset outside the file
            raise
        raise UserError(
            f"{path} is damaged or no checkpoint: {error}\n"
            "Delete it, or copy it again from where it came from."
        ) from error


def _require_whole(path: Path) -> None:
    """Compare a checkpoint with the checksums that torch stores in it, and does not check.

    Older ones are a pickle, without checksums.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} in it differs")
    else:
        with path.open("rb") as file:
            if file.read(1) != pickle.PROTO:
                raise ValueError("it is cut off, or not written by torch.save")


_ARRAY_MAKERS: list[Any] = [
    OrderedDict,
    np.ndarray,
    np.dtype,
    *(np.empty(1).__reduce_ex__(protocol)[0] for protocol in (2, 5)),
    codecs.encode,
]
_PICKLED_ARRAYS = {(maker.__module__, maker.__name__): maker for maker in _ARRAY_MAKERS}
"""What a pickle of plain containers and arrays calls, by module and name."""


class _ArraysOnly(pickle.Unpickler):
    """Reads plain containers and NumPy arrays, as Detectron2 writes them to .pkl files."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may call: the makers of arrays, which run no code of the file."""
        known = _PICKLED_ARRAYS.get((module.replace("numpy.core", "numpy._core"), name))
        if known is not None:
            return known
        raise pickle.UnpicklingError(f"{module}.{name}{_REFUSED}")


@contextmanager
def no_code_from(source: str, *, trust: bool) -> Iterator[None]:
    """Context in which others, such as mmengine, load checkpoints as `load_checkpoint` does.

    By default mmengine reads a file that holds more than weights again, and then runs its code.

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
        if not reason.endswith(_REFUSED) and not reason.startswith("Weights only"):  # torch's beginning
            raise  # damaged bytes
        raise UserError(
            f"{source} is a pickle that holds more than weights; loading it would run its code ({reason}).\n"
            "Expected: tensors in plain containers. Convert it to .safetensors where it came from, "
            "or pass --trust-checkpoint if you made it yourself."
        ) from error


def require_checkpoint(path: Path) -> None:
    """Refuse a file that is not there.

    Raises:
        UserError: with what is expected.
    """
    if not path.is_file():
        raise UserError(
            f"No checkpoint at {path}.\nExpected a .safetensors or .pth file, or published "
            "weights: mmdet://NAME, or a Mask2Former of Hugging Face's hub."
        )


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
        raise pickle.UnpicklingError(f"getattr({owner!r}, {name!r}){_REFUSED}")
    return getattr(owner, name)
