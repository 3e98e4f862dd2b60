"""Weights of a network and their classes, read from any file and written atomically."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from s4m_cache.atomic import write_bytes
from s4m_cache.errors import free_space
from s4m_pipeline.config.weight_files import WeightFile, find_weights
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.models.conversion.layouts import own_names
from s4m_pipeline.models.unpickling import load_checkpoint, require_checkpoint

ATOMIC = {"backend": "atomic"}
"""`backend_args` that make mmengine's CheckpointHook write through `AtomicBackend`."""

TRAINING_ONLY = "sd_projection."
"""Prefix of tensors that only structural distillation uses; final weights do not hold them."""


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
    require_checkpoint(path)
    try:
        with safe_open(path, framework="pt") as file:
            classes = _class_names(json.loads((file.metadata() or {}).get("classes", "null")))
            return {name: file.get_tensor(name) for name in file.keys()}, classes  # noqa: SIM118 (no iterator)
    except (SafetensorError, ValueError, RecursionError) as error:
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
        found = {name: _tensor(value) for name, value in found.items()}
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(t, Tensor) for name, t in found.items()
    ):
        raise UserError(
            f"{path} does not hold weights.\nExpected: a dictionary of tensors by name, or one "
            "with such a dictionary as `state_dict` or `model`. Extract the tensors and save them alone."
        )
    meta = _mapping(checkpoint.get("meta"))
    data = {**meta, **_mapping(meta.get("dataset_meta"))}
    try:
        classes = _class_names(data.get("classes", data.get("CLASSES")))  # in capitals: mmdet 2
    except ValueError as error:
        raise UserError(
            f"{path} has faulty metadata: {error}.\nSave its weights alone: a dictionary of tensors by name."
        ) from error
    return dict(found), classes


def _tensor(value: Any) -> Any:
    """An array as a tensor; any other value, and an array of no numbers, as it is."""
    return torch.tensor(value) if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def write_weights(path: Path, tensors: Mapping[str, Tensor], classes: tuple[str, ...], **about: str) -> None:
    """Write a .safetensors file atomically, with the class names and further texts in its header.

    Raises:
        UserError: as `AtomicBackend.put`.
    """
    metadata = {"classes": json.dumps(classes), **about}
    # Not with `save_file`, whose files only their owner may read.
    _write(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def _class_names(given: Any) -> tuple[str, ...] | None:
    """The class names that a file lists; None if it lists none.

    Raises:
        ValueError: if they are anything but names.
    """
    if given is None or (isinstance(given, list | tuple) and all(isinstance(name, str) for name in given)):
        return tuple(given) if given else None
    raise ValueError(f"its `classes` are {repr(given)[:80]}, a list of names expected")


def require_classes(weights: Weights, classes: tuple[str, ...], source: str) -> None:
    """Refuse weights that were trained for different classes.

    Args:
        classes: expected names, in the order of the labels.
        source: of `classes`, for the message.

    Raises:
        UserError: with both lists.
    """
    if weights.classes is not None and weights.classes != classes:
        start = "name it as init_from" if weights.published else "pass --allow-partial"
        raise UserError(
            f"{weights.file} was trained for different classes.\n"
            f"  checkpoint ({len(weights.classes)}): {', '.join(weights.classes)}\n"
            f"  {source} ({len(classes)}): {', '.join(classes)}\n"
            f"Use the data set it belongs to. To start training from it without its class layer, {start}."
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
