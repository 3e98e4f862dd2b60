"""Every setting of a config, with its default and the file that sets it."""

import ast
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from s4m_pipeline.config.base import Settings, flat
from s4m_pipeline.config.experiment import RUNNER_KEYS, Options, load_experiment
from s4m_pipeline.config.loading import load_config
from s4m_pipeline.core.paths import find_config


class Setting(NamedTuple):
    """One setting of a config."""

    key: str
    """As `--set` names it."""
    value: Any
    default: str | None
    """As it is written in a config; None if it must be given or belongs to mmengine or mmdet."""
    origin: str
    """`default`, `--set`, or the file that gives the value: the config or one of its bases."""
    meaning: str
    """Empty for keys of mmengine and mmdet."""


def list_settings(path: Path, overrides: Sequence[str] = ()) -> list[Setting]:
    """Our settings by group, then the keys of mmengine and mmdet.

    Args:
        path: the config file, or a name.

    Raises:
        UserError: as `load_experiment`.
    """
    options, _ = load_experiment(path, overrides)
    given, _ = load_config(path, overrides, list(Options.model_fields))
    file = find_config(path)
    theirs = {key: given[key] for key in RUNNER_KEYS if key in given}
    rows = [*_ours(options, ""), *((key, value, None, "") for key, value in flat(theirs))]
    return [
        Setting(key, value, default, _origin(file, key, _look_up(given, key)), meaning)
        for key, value, default, meaning in rows
    ]


def _ours(group: Settings, prefix: str) -> Iterator[tuple[str, Any, str | None, str]]:
    for name, field in type(group).model_fields.items():
        value, key = getattr(group, name), f"{prefix}{name}"
        if isinstance(value, Settings):
            yield from _ours(value, f"{key}.")
        elif prefix:  # above are groups only, one of which a config may lack
            default = None if field.is_required() else repr(field.default)
            yield key, value, default, " ".join((field.description or "").split())


_ABSENT = object()


def _look_up(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config.get(name, _ABSENT) if isinstance(config, Mapping) else _ABSENT
    return config


def _origin(file: Path, key: str, value: Any) -> str:
    if value is _ABSENT:
        return "default"
    return str(_file_of(file, key)) if _look_up(_content(file), key) == value else "--set"


def _file_of(file: Path, key: str) -> Path:
    """The file that gives a key the value that it has in `file`: the deepest base with the same value."""
    value = _look_up(_content(file), key)
    for base in reversed(_bases(file)):
        if _look_up(_content(base), key) == value:
            return _file_of(base, key)
    return file


@functools.cache
def _content(file: Path) -> dict[str, Any]:
    """A file with its own bases."""
    return load_config(file)[0]


@functools.cache
def _bases(file: Path) -> list[Path]:
    """The files that `_base_` lists."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_base_":
            listed = ast.literal_eval(node.value)
            names = [listed] if isinstance(listed, str) else listed
            return [Path(file.parent, name).resolve() for name in names]
    return []
