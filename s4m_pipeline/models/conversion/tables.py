"""Renaming by a table, and what the tables share."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

Table = Sequence[tuple[str, str | None]]
"""Pairs of a name there and the name here; None drops it.

`*` is one part of a name (no dot), `**` any number of them; both sides have the same. `NAME#n` is part n of
NAME: all parts are joined along the first dimension.
"""

_WILDCARD = re.compile(r"\*+")
_MERGING = re.compile(r"backbone\.stages\.\d+\.downsample\.(reduction|norm)\..+")


def renamed(tensors: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Tensors by their names here; those that the table does not have keep their names.

    Raises:
        ValueError: if two tensors would have the same name.
    """
    rules = [(_pattern(there), here) for there, here in table]
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        here = _new_name(name, rules)
        if here in found:
            raise ValueError(f"{name}: a second tensor for {here}")
        if here is not None:
            found[here] = value
    return _joined(found)


def reordered_merging(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Swin's merging of 2 x 2 patches as mmdet has it.

    Swin joins the C channels of the patches (row, column) = 00, 10, 01, 11 to 4 C; mmdet unfolds, so
    there the four patches 00, 01, 10, 11 are neighbors in each channel.
    """
    return {
        # shape (..., 4 C) -> (..., 4, C) -> (..., C, 4) -> (..., 4 C)
        name: value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :].transpose(-1, -2).flatten(-2)
        if _MERGING.fullmatch(name)
        else value
        for name, value in tensors.items()
    }


def prefixed(there: str, here: str, pairs: Iterable[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """The same pairs with a prefix on each side."""
    return [(there + old, None if new is None else here + new) for old, new in pairs]


def _new_name(name: str, rules: Sequence[tuple[re.Pattern[str], str | None]]) -> str | None:
    for pattern, here in rules:
        if match := pattern.fullmatch(name):
            return here and "".join(
                text + part for text, part in zip_longest(_WILDCARD.split(here), match.groups(), fillvalue="")
            )
    return name


def _pattern(text: str) -> re.Pattern[str]:
    parts = re.split(r"(\*+)", text)
    return re.compile("".join({"*": r"([^.]+)", "**": "(.+)"}.get(part, re.escape(part)) for part in parts))


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts: dict[str, list[str]] = {}
    for name in sorted(tensors):  # NAME#0, NAME#1, ...
        if "#" in name:
            parts.setdefault(name.partition("#")[0], []).append(name)
    whole = {name: value for name, value in tensors.items() if "#" not in name}
    return whole | {name: torch.cat([tensors[part] for part in found]) for name, found in parts.items()}
