"""Quick starts: imports without garbage collection, and without the modules that no command uses."""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

UNUSED = (
    "mmdet.datasets.transforms.generate_line",  # lanes, with imgaug and scipy.stats
    "mmdet.models.dense_heads.clr_head",  # lanes, with scipy.interpolate
    "mmdet.utils.mot_error_visualize",  # tracking, with matplotlib.pyplot
    "mmengine.model.wrappers.fully_sharded_distributed",  # most of torch.distributed, and sympy
    "mmengine.optim.optimizer.zero_optimizer",  # the same
    "mmengine.runner._flexible_runner",  # training with DeepSpeed or ColossalAI
)
OPTIONAL = ("transformers", "imagecorruptions")
"""Packages that mmdet imports where they are installed."""


@contextmanager
def without_collection() -> Iterator[None]:
    """For imports: looking for garbage among the many objects that they make is a fifth of their time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def leave_out_unused() -> None:
    """From now on this process imports stand-ins: for commands only, whose processes are their own.

    In a program that uses s4m as a library, these packages stay what they are.
    """
    sys.modules.update(dict.fromkeys(OPTIONAL))  # type: ignore[arg-type]  # as if they were not installed
    sys.meta_path.insert(0, _StandIns())


def allow(package: str) -> None:
    """Let one of `OPTIONAL` be imported after all, by a command that uses it."""
    if sys.modules.get(package) is None:
        sys.modules.pop(package, None)


class _StandIns(MetaPathFinder, Loader):
    """Finds the modules of `UNUSED` and those inside them."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if any(name == unused or name.startswith(f"{unused}.") for unused in UNUSED):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to execute."""


class _StandIn(ModuleType):
    """Has every name; what it stands for raises an error when it is used."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):  # the import system looks these up, and they must not seem to exist
            raise AttributeError(name)
        return type(name, (_Unused,), {"__module__": self.__name__})


class _Unused:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError(f"{type(self).__module__} is left out of commands (s4m_pipeline.core.startup)")
