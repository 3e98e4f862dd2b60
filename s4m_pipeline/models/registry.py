"""The one place that fills mmengine's registries with what config files name: mmdet's classes and ours."""

import contextlib
import importlib
import io
import warnings
from functools import cache

from s4m_pipeline.models.ops import stand_in_for_missing_ops

MODULES = (
    "s4m_pipeline.data.dataset",
    "s4m_pipeline.data.depth",
    "s4m_pipeline.models.head",
    "s4m_pipeline.models.mask2former",
    "s4m_pipeline.models.pixel_decoder",
    "s4m_pipeline.models.preprocessor",
)
"""Our modules with classes that config files name; all other code passes classes themselves as `type`."""


@cache
def register_all() -> None:
    """Registers our classes, with `mmdet` as the default scope; may be called again.

    mmdet's registries import what they hold themselves, when a name is looked up. Ours need mmdet's models
    and data sets, and these `stand_in_for_missing_ops`: so modules that import mmdet are themselves imported
    after this call, inside functions, and commands call it when work starts.
    """
    stand_in_for_missing_ops()

    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    with contextlib.redirect_stdout(io.StringIO()):  # mmdet prints which of its optional packages are absent
        for module in MODULES:
            importlib.import_module(module)
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # mmdet calls it in the old way
