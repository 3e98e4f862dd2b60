"""From the raw values of a config to the dataclass of a group, with every fault named at once."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from s4m_pipeline.errors import UserError


class OptionFaults(UserError):
    """All faults of one group of options; `faults` holds one line each."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


def refuse(faults: Sequence[str]) -> None:
    """Raise `OptionFaults` if there are any."""
    if faults:
        raise OptionFaults(faults)


def unknown_key(key: str, known: Collection[str], prefix: str = "") -> str:
    """The line that answers an unknown key, with the nearest known one if there is any."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
    return f"{prefix}{key}: unknown key; {hint}"


def parse_group(group: Any, prefix: str, raw: Mapping[str, Any]) -> Any:
    """The dataclass `group` filled from `raw`; a field with `metadata["group"]` is a group of its own.

    Args:
        prefix: name of the group in the config, for messages.

    Raises:
        OptionFaults: with every fault of the group.
    """
    if not isinstance(raw, Mapping):
        raise OptionFaults([f"{prefix}: {raw!r} given, a group of keys expected"])
    hints = typing.get_type_hints(group)
    faults = [unknown_key(key, hints, f"{prefix}.") for key in raw if key not in hints]
    values = {}
    for item in dataclasses.fields(group):
        if item.name not in raw:
            if _is_required(item):
                faults.append(f"{prefix}.{item.name}: missing")
            continue
        if "group" in item.metadata:
            try:
                values[item.name] = parse_group(
                    item.metadata["group"], f"{prefix}.{item.name}", raw[item.name]
                )
            except OptionFaults as error:
                faults += error.faults
            continue
        try:
            values[item.name] = _convert(raw[item.name], hints[item.name])
        except ValueError as error:
            faults.append(f"{prefix}.{item.name}: {raw[item.name]!r} given, {error} expected")
    # A mistyped or missing value must not hide the faults of the others: a valid stand-in takes its place.
    stand_ins = {
        item.name: 1 if hints[item.name] is int else ""
        for item in dataclasses.fields(group)
        if _is_required(item)
    }
    try:
        options = group(**{**stand_ins, **values})
    except OptionFaults as error:
        faults += [line if line.startswith(prefix) else f"{prefix}.{line}" for line in error.faults]
    refuse(faults)
    return options


def _is_required(item: "dataclasses.Field[Any]") -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _convert(value: Any, hint: Any) -> Any:
    """`value` as the annotated type; a ValueError says what was expected."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        members = typing.get_args(hint)
        if value is None and type(None) in members:
            return None
        (inner,) = (member for member in members if member is not type(None))
        try:
            return _convert(value, inner)
        except ValueError as error:
            raise ValueError(f"{error} or None") from None
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ValueError("one of " + ", ".join(typing.get_args(hint)))
        return value
    if origin is tuple:
        members = typing.get_args(hint)
        if not isinstance(value, (list, tuple)) or len(value) != len(members):
            raise ValueError(f"{len(members)} numbers")
        return tuple(_convert(item, member) for item, member in zip(value, members, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(_TYPE_NAMES[hint])
    return value


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
