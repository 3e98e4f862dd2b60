"""Differences between the settings and files of a recorded run and the current ones."""

import json
import re
from collections.abc import Mapping
from typing import Any

from s4m_pipeline.config.base import default_values
from s4m_pipeline.config.experiment import FREE_TO_CHANGE, Options
from s4m_pipeline.config.groups import TileOptions

INITIAL_WEIGHTS = "initial weights"
"""Name of their file among the contents that a run depends on."""
_INIT_FROM = frozenset({"teacher.init_from", "student.init_from"})
_TILES = frozenset(f"model.test_cfg.tiles.{name}" for name in TileOptions.model_fields)
"""A training only validates with them; labels that were made with them have them in their fingerprint."""


def changes(run: Mapping[str, Any], config: Mapping[str, Any], contents: Mapping[str, str]) -> list[str]:
    """What changed since a run was recorded, one line each, as far as its result depends on it.

    A setting that the record lacks did not exist yet: it had the effect of its default. Initial weights are
    compared by what their file holds; by its name where that is not known of both, as the file of a training
    that has begun may be gone.

    Args:
        run: content of run.json.
        config: settings that the run depends on.
        contents: sha256 of each file that it depends on.
    """
    new = {**_flat(plain(config)), **{f"content of {k}": v for k, v in contents.items()}}
    defaults = {key: value for key, value in _flat(plain(default_values(Options))).items() if key in new}
    recorded = {f"content of {k}": v for k, v in run["data"].items()}
    old = {**defaults, **_flat(run["config"]), **recorded}
    known = INITIAL_WEIGHTS in run["data"] and INITIAL_WEIGHTS in contents
    free = FREE_TO_CHANGE | _TILES | (_INIT_FROM if known else {f"content of {INITIAL_WEIGHTS}"})
    return differences(
        {key: value for key, value in old.items() if key not in free},
        {key: value for key, value in new.items() if key not in free},
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`NAME changed: OLD -> NEW` for each value that differs; a value that is missing is `absent`."""
    return [
        f"{key} changed: {_shown(old.get(key, 'absent'))} -> {_shown(new.get(key, 'absent'))}"
        for key in sorted({*old, *new})
        if old.get(key, "absent") != new.get(key, "absent")
    ]


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON would give them back: tuples as lists."""
    values: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return values


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        pairs = [(str(place), item) for place, item in enumerate(value)]
    else:
        return {prefix: value}
    return {k: v for key, item in pairs for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()}


def _shown(value: Any) -> str:
    """Of a whole SHA-256, the digits that tell files apart."""
    text = str(value)
    return text[:16] if re.fullmatch("[0-9a-f]{64}", text) else text
