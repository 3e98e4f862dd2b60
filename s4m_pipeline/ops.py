"""Imports mmcv and mmdet where mmcv's compiled operators are absent, as they are in the ordinary wheel.

`mmcv.ops` asks `mmcv._ext` for every operator while it is being imported, so one missing file keeps all of
mmdet from registering. Mask2Former calls a single one of these operators, and that one has a pure-torch twin.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

from s4m_pipeline.errors import UserError

_EXTENSION = "mmcv._ext"


class _MissingOps(ModuleType):
    """Stands where `mmcv._ext` would: has every operator by name, and explains itself when one is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system probes these and must not be told that they exist
            raise AttributeError(name)

        def missing_op(*args: Any, **kwargs: Any) -> NoReturn:
            raise UserError(
                f"The mmcv operator '{name}' was called, but mmcv is installed without compiled operators. "
                "Compile them once with `make ops` (about 10 minutes on two cores), or use a model that does "
                "without this operator: Mask2Former does."
            )

        return missing_op


def compiled_ops_present() -> bool:
    """Whether mmcv's compiled operators are installed; imports mmcv, but not `mmcv.ops`."""
    module = sys.modules.get(_EXTENSION)
    if module is not None:
        return not isinstance(module, _MissingOps)
    return importlib.util.find_spec(_EXTENSION) is not None


def stand_in_for_missing_ops() -> None:
    """Makes `import mmcv.ops` succeed without compiled operators; changes nothing when they are installed.

    Called by `registry.register_all()` before mmdet is imported. May be called again.
    """
    if compiled_ops_present():
        return
    stand_in = _MissingOps(_EXTENSION, "Stand-in for mmcv's compiled operators.")
    stand_in.__spec__ = ModuleSpec(_EXTENSION, loader=None)
    sys.modules[_EXTENSION] = stand_in

    import mmcv.ops.multi_scale_deform_attn as deformable_attention

    # The layer takes the compiled operator for any CUDA tensor without asking whether there is one. This flag
    # is its own switch to `multi_scale_deformable_attn_pytorch`, and is read nowhere but in that file.
    deformable_attention.IS_CUDA_AVAILABLE = False
