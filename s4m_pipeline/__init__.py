"""S4M: semi-supervised instance segmentation with SAM 2 as an offline pipeline.

The names below are the public Python interface (docs/python.md). They are imported when first used, so that
`import s4m_pipeline` stays quick and free of torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s4m_pipeline.apps.export.labels import read_pseudo_labels
    from s4m_pipeline.apps.predict.predictor import Detections, Predictor
    from s4m_pipeline.apps.python.run import run
    from s4m_pipeline.config.experiment import load_experiment
    from s4m_pipeline.core.errors import UserError

_MODULES = {
    "Detections": "s4m_pipeline.apps.predict.predictor",
    "Predictor": "s4m_pipeline.apps.predict.predictor",
    "UserError": "s4m_pipeline.core.errors",
    "load_experiment": "s4m_pipeline.config.experiment",
    "read_pseudo_labels": "s4m_pipeline.apps.export.labels",
    "run": "s4m_pipeline.apps.python.run",
}

__all__ = ["Detections", "Predictor", "UserError", "load_experiment", "read_pseudo_labels", "run"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
