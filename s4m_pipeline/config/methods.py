"""Other methods: settings on top of any experiment, one file each in configs/rivals."""

import runpy
from typing import Literal, NamedTuple

from s4m_pipeline.config.base import flat
from s4m_pipeline.core.paths import CONFIGS

MethodName = Literal[
    "data_distillation",
    "noisy_boundaries",
    "polite_teacher",
    "pais",
    "guided_distillation",
    "depth_guided",
    "pl_dc",
    "s4m_plus",
]


class Method(NamedTuple):
    """A method as settings."""

    title: str
    """Its name, which the file's header begins with."""
    settings: tuple[str, ...]
    """As `--set` takes them, without blanks."""


def read_method(name: MethodName) -> Method:
    """The settings in configs/rivals/NAME.py, which holds groups of settings and nothing else."""
    content = runpy.run_path(str(CONFIGS / "rivals" / f"{name}.py"))
    groups = {key: value for key, value in content.items() if not key.startswith("_")}
    settings = (f"{key}={value}".replace(" ", "") for key, value in flat(groups))
    return Method(content["__doc__"].partition(":")[0], tuple(settings))
