"""Faulty inputs for Hypothesis: JSON documents and bytes with some places changed."""

import copy
import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import strategies as st

from s4m_cache.errors import CacheError
from s4m_pipeline.core.errors import UserError

REFUSED = (UserError, CacheError)
LONGEST_S = 60.0
"""How long reading one small input may take; after that it hangs."""

_NUMBERS = (0, 1, -1, 3, 1 << 31, 1 << 63, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan"), True)
_TEXTS = ("", " ", "\n", "\0", "../x", "/etc/passwd", "\ud800", "é" * 300, "${a}", "none", "1", "__class__")
odd_values: st.SearchStrategy[Any] = st.sampled_from([None, *_NUMBERS, *_TEXTS]) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@contextmanager
def soon() -> Iterator[None]:
    """Ends the whole process, saying where it was, if what is done in it hangs."""
    faulthandler.dump_traceback_later(LONGEST_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@st.composite
def changed_json(draw: st.DrawFn, document: Any, values: st.SearchStrategy[Any] = odd_values) -> Any:
    """A copy of a document of lists and dictionaries with 1 to 3 places replaced, removed or doubled."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = [*_places(document)]
        if not places:
            break
        parent, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "replace", "remove", "double"])):
            case "replace":
                parent[key] = copy.deepcopy(draw(values))
            case "remove":
                del parent[key]
            case "double" if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[key]))
            case "double":
                parent[f"{key}2"] = parent[key]
    return document


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a document, as its parent and the key or index in it."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from _places(node[key])


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A file's content with up to 4 places flipped, overwritten, removed or inserted, perhaps cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        # The beginning, where headers are, is hit as often as all of the rest.
        place = draw(st.integers(0, min(64, len(changed))) | st.integers(0, len(changed)))
        match draw(st.sampled_from(["flip", "overwrite", "remove", "insert", "cut"])):
            case "flip" if place < len(changed):
                changed[place] ^= 1 << draw(st.integers(0, 7))
            case "overwrite":
                new = draw(st.binary(min_size=1, max_size=8))
                changed[place : place + len(new)] = new
            case "remove":
                del changed[place : place + draw(st.integers(1, 32))]
            case "insert":
                changed[place:place] = draw(st.binary(min_size=1, max_size=8))
            case "cut":
                del changed[place:]
    return bytes(changed)
