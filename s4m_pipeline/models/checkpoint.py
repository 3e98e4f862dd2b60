"""Checkpoints that are written atomically, and read without running code stored in them."""

import codecs
import errno
import functools
import json
import os
import pickle
import zipfile
from collections import OrderedDict
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
from torch import Tensor

from s4m_cache.atomic import write_bytes
from s4m_cache.errors import free_space
from s4m_pipeline.config.weight_files import WeightFile, find_weights
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.models.conversion.layouts import own_names

ATOMIC = {"backend": "atomic"}
"""`backend_args` that make mmengine's CheckpointHook write through `AtomicBackend`."""

TRAINING_ONLY = "sd_projection."
"""Prefix of tensors that only structural distillation uses; final weights do not hold them."""

_FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@register_backend("atomic")
class AtomicBackend(LocalBackend):
    """mmengine's local files, written atomically."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a temporary name, sync, and rename.

        Raises:
            UserError: with the size needed and the space free, if the file system refuses.
        """
        _write(Path(filepath), obj)


@dataclass(frozen=True)
class Weights:
    """Tensors by name, with the classes they were trained for (None where the file does not say)."""

    file: WeightFile
    tensors: dict[str, Tensor] = field(repr=False)
    classes: tuple[str, ...] | None
    published: bool = False
    """Whether they are a whole network of others, to start from whatever its classes are."""

    @property
    def path(self) -> Path:
        """The file that holds them."""
        return self.file.path


def load_checkpoint(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """Read a .pth or .pkl file on the CPU without executing code from it.

    Besides tensors and plain containers, NumPy arrays and mmengine's `HistoryBuffer` are allowed.

    Args:
        trust: also read a file whose pickle runs code.

    Raises:
        UserError: if the file is missing, damaged, or holds code and is not trusted.
    """
    _require(path)
    try:
        with _code_refused(str(path)):
            if path.suffix == ".pkl":
                with path.open("rb") as file:
                    return (pickle.Unpickler if trust else _ArraysOnly)(file, encoding="latin1").load()
            _check_sums(path)
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


def _check_sums(path: Path) -> None:
    """Compare a checkpoint with the checksums that torch stores in it, and does not check."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} in it differs")


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
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


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
        raise UserError(
            f"{source} is a pickle that holds more than weights; loading it would run its code ({reason}).\n"
            "Expected: tensors in plain containers. Convert it to .safetensors where it came from, "
            "or pass --trust-checkpoint if you made it yourself."
        ) from error


def read_weights(source: str | Path, *, trust: bool = False) -> Weights:
    """Read the tensors of a network on the CPU, under our names whoever wrote them.

    Args:
        source: .safetensors, a training checkpoint (.pth), a file of Detectron2, or a name, as `find_weights`
            takes them.

    Raises:
        UserError: as `find_weights` and `load_checkpoint`; if the file does not hold the network.
    """
    file = find_weights(source)
    path = file.path
    if path.suffix == ".safetensors":
        tensors, classes = _read_safetensors(path)
    else:
        tensors, classes = _tensors_of(load_checkpoint(path, trust=trust), path)
    converted, their_classes = own_names(tensors, file)
    published = file.published is not None or converted is not tensors
    return Weights(file, converted, classes or their_classes, published)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    _require(path)
    try:
        with safe_open(path, framework="pt") as file:
            classes = _listed_classes((file.metadata() or {}).get("classes", "null"))
            return {name: file.get_tensor(name) for name in file.keys()}, classes  # noqa: SIM118 (no iterator)
    except (SafetensorError, ValueError) as error:
        raise UserError(
            f"{path} is damaged: {error}\nDelete it, or copy it again from where it came from."
        ) from error


def _tensors_of(checkpoint: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Tensors and classes of a checkpoint of mmengine (`state_dict`), Detectron2 (`model`) or neither."""
    found = checkpoint
    for key in ("state_dict", "model"):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            found = checkpoint[key]
            break
    if isinstance(found, Mapping):
        found = {name: torch.tensor(t) if isinstance(t, np.ndarray) else t for name, t in found.items()}
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise UserError(
            f"{path} does not hold weights.\nExpected: a dictionary of tensors by name, or one "
            "with such a dictionary as `state_dict` or `model`. Extract the tensors and save them alone."
        )
    meta = checkpoint.get("meta", {})
    data = {**meta, **meta.get("dataset_meta", {})} if isinstance(meta, Mapping) else {}
    classes = data.get("classes", data.get("CLASSES"))  # in capitals: mmdet 2
    return dict(found), tuple(classes) if classes else None


def write_weights(path: Path, tensors: Mapping[str, Tensor], classes: tuple[str, ...], **about: str) -> None:
    """Write a .safetensors file atomically, with the class names and further texts in its header.

    Raises:
        UserError: as `AtomicBackend.put`.
    """
    metadata = {"classes": json.dumps(classes), **about}
    # Not with `save_file`, whose files only their owner may read.
    _write(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def _listed_classes(text: str) -> tuple[str, ...] | None:
    """The class names in the header of a .safetensors file."""
    names = json.loads(text)
    if names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        return tuple(names) if names else None
    raise ValueError(f"`classes` in its header is {text[:80]}, a list of names expected")


def require_classes(weights: Weights, classes: tuple[str, ...], source: str) -> None:
    """Refuse weights that were trained for different classes.

    Args:
        classes: expected names, in the order of the labels.
        source: of `classes`, for the message.

    Raises:
        UserError: with both lists.
    """
    if weights.classes is not None and weights.classes != classes:
        raise UserError(
            f"{weights.path} was trained for different classes.\n"
            f"  checkpoint ({len(weights.classes)}): {', '.join(weights.classes)}\n"
            f"  {source} ({len(classes)}): {', '.join(classes)}\n"
            "Use the data set it belongs to. To start training from it without its class layer, "
            "pass --allow-partial."
        )


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
        raise pickle.UnpicklingError(f"getattr({owner!r}, {name!r}) is not allowed")
    return getattr(owner, name)
