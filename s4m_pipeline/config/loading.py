"""Reading an experiment: an mmengine Python config, and `--set a.b=c` on top of it."""

import ast
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import find_config


def load_config(
    path: str | Path, overrides: Sequence[str] = (), open_keys: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Read a config file with its bases and apply overrides.

    Top-level names that start with an underscore are the file's own helpers and are dropped.

    Args:
        path: the config file, or a name (`find_config`).
        overrides: texts `a.b=c`; c is read as a Python literal, `true`/`false`/`null`, or else as text.
        open_keys: top-level keys below which an override may name what the config does not hold yet
            (groups with defaults). These and new top-level keys are checked by whoever parses them.

    Returns:
        The config as plain values, and the faults of the overrides, one line each.

    Raises:
        UserError: if the file is missing or cannot be executed.
    """
    path = find_config(Path(path))
    try:
        whole = Config.fromfile(path, use_environment_variables=False).to_dict()
    except Exception as error:  # the file is code: anything may come out of it
        raise UserError(f"{path} cannot be read as a config: {type(error).__name__}: {error}") from error
    config = {name: value for name, value in whole.items() if not name.startswith("_")}
    faults = []
    for override in overrides:
        fault = _apply(config, override, open_keys)
        if fault:
            faults.append(fault)
    return config, faults


def _apply(config: dict[str, Any], override: str, open_keys: Sequence[str]) -> str | None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        return f"--set {override}: expected KEY=VALUE, for example teacher.iterations=100"
    *parents, leaf = name.split(".")
    node: Any = config
    for depth, parent in enumerate(parents):
        if parents[0] in open_keys and isinstance(node, dict) and node.get(parent) is None:
            node[parent] = {}
        child = _child(node, parent)
        if child is None:
            return f"--set {name}: no {'.'.join(parents[: depth + 1])} in the config{_near(parent, node)}"
        node = child
    if isinstance(node, list):
        if not leaf.isdigit() or int(leaf) >= len(node):
            return f"--set {name}: {leaf} is no position of a list of {len(node)}"
        node[int(leaf)] = _literal(text)
    elif not isinstance(node, dict):
        return f"--set {name}: {'.'.join(parents)} holds a value, not keys"
    elif leaf in node or not parents or parents[0] in open_keys:
        node[leaf] = _literal(text)
    else:
        return f"--set {name}: unknown key{_near(leaf, node)}"
    return None


def _child(node: Any, key: str) -> Any:
    if isinstance(node, list):
        return node[int(key)] if key.isdigit() and int(key) < len(node) else None
    return node.get(key) if isinstance(node, dict) else None


def _near(key: str, node: Any) -> str:
    known = [str(name) for name in node] if isinstance(node, dict) else []
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _literal(text: str) -> Any:
    words = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # as its documentation lists
        return text
