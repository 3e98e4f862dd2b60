"""The one place that fills mmengine's registries with what config files name: mmdet's classes and ours.

mmdet must be importable without mmcv's compiled operators, which its ordinary wheel lacks: `mmcv.ops` looks
up every operator in `mmcv._ext` when it is imported. Mask2Former uses only one, which also exists in pure
torch.
"""

import contextlib
import importlib
import importlib.util
import io
import sys
import warnings
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType
from typing import Any, NoReturn

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.startup import without_collection

MODULES = (
    "s4m_pipeline.data.dataset",
    "s4m_pipeline.data.depth",
    "s4m_pipeline.models.head",
    "s4m_pipeline.models.mask2former",
    "s4m_pipeline.models.pixel_decoder",
)
"""Our modules with classes that config files name; all other code passes classes themselves as `type`."""


@cache
def register_all() -> None:
    """Registers our classes, with `mmdet` as the default scope; may be called again.

    mmdet's registries import what they hold themselves, when a name is looked up. Ours need mmdet's models
    and data sets, and these `stand_in_for_missing_ops`: so modules that import mmdet are themselves imported
    after this call, inside functions, and commands call it when work starts.
    """
    with without_collection():
        stand_in_for_missing_ops()

        from mmengine.registry import init_default_scope

        init_default_scope("mmdet")
        with contextlib.redirect_stdout(io.StringIO()):  # mmdet prints which optional packages are absent
            for module in MODULES:
                importlib.import_module(module)
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # mmdet calls it in the old way


_EXTENSION = "mmcv._ext"


class _MissingOps(ModuleType):
    """Placeholder for `mmcv._ext`: has every operator by name, and raises an error when one is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks these up, and they must not seem to exist
            raise AttributeError(name)

        def missing_op(*args: Any, **kwargs: Any) -> NoReturn:
            raise UserError(
                f"The mmcv operator '{name}' was called, but mmcv is installed without compiled operators. "
                f"Compile them once (about 10 minutes on two cores):\n  {compile_command()}\n"
                "or use a model that does not need this operator, such as Mask2Former."
            )

        return missing_op


def compile_command() -> str:
    """The shell command that compiles the operators; it needs a C++ compiler, and on a GPU also nvcc."""
    return (
        f"MMCV_WITH_OPS=1 {sys.executable} -m pip install --no-deps --force-reinstall --no-cache-dir "
        f"--no-build-isolation --no-binary onedl-mmcv onedl-mmcv=={version('onedl-mmcv')}"
    )


def compiled_ops_present() -> bool:
    """Whether mmcv's compiled operators are installed; imports mmcv, but not `mmcv.ops`."""
    module = sys.modules.get(_EXTENSION)
    if module is not None:
        return not isinstance(module, _MissingOps)
    return importlib.util.find_spec(_EXTENSION) is not None


def stand_in_for_missing_ops() -> None:
    """Makes `import mmcv.ops` succeed without compiled operators; changes nothing when they are installed.

    Called by `register_all` before mmdet is imported. May be called again.
    """
    if compiled_ops_present():
        return
    stand_in = _MissingOps(_EXTENSION, "Stand-in for mmcv's compiled operators.")
    stand_in.__spec__ = ModuleSpec(_EXTENSION, loader=None)
    sys.modules[_EXTENSION] = stand_in

    import mmcv.ops.multi_scale_deform_attn as deformable_attention

    # For CUDA tensors the layer uses the compiled operator without checking that it exists. With this flag,
    # which is read only in that file, it uses `multi_scale_deformable_attn_pytorch` instead.
    deformable_attention.IS_CUDA_AVAILABLE = False
