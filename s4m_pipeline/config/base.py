"""What all groups of settings have in common: how values are checked, and how a fault is worded."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

AtLeastOne = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """A group of settings: immutable, given by keyword, checked when it is made.

    A validator that compares keys belongs to the latter of them: it sees the former in `info.data`, also if
    other keys are faulty. Its message begins with the name of a key, without the group's.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_declared(cls, value: Any) -> Any:
        """The two conversions that are allowed: 20.0 to 20, a list to a tuple."""
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return tuple(value) if isinstance(value, list) else value


def default_values(settings: type[Settings]) -> dict[str, Any]:
    """The values of all keys that need not be given, by group."""
    values: dict[str, Any] = {}
    for name, key in settings.model_fields.items():
        if group := _group_of(key.annotation):
            values[name] = default_values(group)
        elif not key.is_required():
            values[name] = key.default
    return values


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as pairs of a key `a.b.c`, as `--set` names it, and its value."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def describe_faults(error: ValidationError, settings: type[Settings], prefix: str = "") -> list[str]:
    """Every fault that pydantic found in `settings`, one line each: key, given value, what was expected."""
    return [_describe(fault, settings, prefix) for fault in error.errors(include_url=False)]


def unknown_key(key: str, known: Collection[str], prefix: str = "") -> str:
    """The line that answers an unknown key, with the nearest known one if there is any."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
    return f"{prefix}{key}: unknown key; {hint}"


_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "True or False",
    "string_type": "a string",
    "tuple_type": "a list",
    "too_long": "at most {max_length} values",
    "model_type": "a group of keys",
    "invalid_key": "a name",
    "literal_error": "one of {expected}",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "a number above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "a number below {lt:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
}
"""What is expected of a value, by pydantic's type of error."""


def _describe(fault: ErrorDetails, settings: type[Settings], prefix: str) -> str:
    *groups, key = fault["loc"]
    group: type[Settings] | None = settings
    for name in groups:
        group = _group_of(_annotation(group, name))
        prefix += f"{name}."
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden" and group:
        return unknown_key(str(key), group.model_fields, prefix)
    if kind == "missing":
        return f"{prefix}{key}: missing"
    if kind == "value_error":
        return f"{prefix}{context['error']}"
    if kind == "literal_error":
        context = {"expected": context["expected"].replace("'", "").replace(" or ", ", ")}
    expected = _EXPECTED.get(kind, fault["msg"]).format(**context)
    or_none = " or None" if type(None) in get_args(_annotation(group, key)) else ""
    return f"{prefix}{key}: {fault['input']!r} given, {expected}{or_none} expected"


def _annotation(group: type[Settings] | None, key: str | int) -> Any:
    """The declared type of a key; None for a position in a list."""
    return group.model_fields[key].annotation if group and key in group.model_fields else None


def _group_of(annotation: Any) -> type[Settings] | None:
    """The group of settings that a key holds, if it does."""
    types = (annotation, *get_args(annotation))
    return next((kind for kind in types if isinstance(kind, type) and issubclass(kind, Settings)), None)
