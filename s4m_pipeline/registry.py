"""The one place that fills mmengine's registries: mmdet's modules and ours."""

import contextlib
import importlib
import io
import warnings
from functools import cache

from s4m_pipeline.ops import stand_in_for_missing_ops

MODULES = (
    "s4m_pipeline.engine.dataset",
    "s4m_pipeline.engine.optim",
    "s4m_pipeline.engine.pseudo_labels",
    "s4m_pipeline.engine.seeding",
    "s4m_pipeline.engine.two_branches",
    "s4m_pipeline.evaluation.metric",
    "s4m_pipeline.models.distilled",
    "s4m_pipeline.models.head",
    "s4m_pipeline.models.mask2former",
    "s4m_pipeline.models.student",
    "s4m_pipeline.student.preprocessor",
)
"""Our modules that register something a config may name."""


@cache
def register_all() -> None:
    """Registers everything a config may name, with `mmdet` as the default scope; may be called again.

    Takes seconds (it imports all of mmdet), so commands call it when the work begins, never at import.
    """
    stand_in_for_missing_ops()

    with contextlib.redirect_stdout(io.StringIO()):  # mmdet prints which of its optional packages are absent
        from mmdet.utils import register_all_modules

        register_all_modules(init_default_scope=True)
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # mmdet calls it in the old way
    for module in MODULES:
        importlib.import_module(module)
