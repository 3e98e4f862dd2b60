"""Write the report: a template of HTML, CSS and JavaScript with the data as a JSON block, in one file.

The scripts insert texts from the data as text nodes and attributes only, never as markup, and the page's
content security policy allows only the style and script of this file.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from s4m_cache.atomic import write_text

_SCRIPTS = tuple(
    f"{name}.js" for name in ("elements", "summary", "charts", "labels", "masks", "gallery", "errors", "main")
)


def write_page(path: Path, contents: Mapping[str, Any]) -> None:
    """Write the report of the contents that `collect` returns; an earlier one is replaced atomically."""
    write_text(path, render(contents))


def render(contents: Mapping[str, Any]) -> str:
    """The HTML of the report."""
    style = _template("page.css")
    script = "".join(_template(name) for name in _SCRIPTS)
    made = {"made_at": datetime.now(UTC).isoformat(timespec="seconds"), "made_by": version("s4m-pipeline")}
    parts = {
        "title": html.escape(f"{contents['name']}: S4M report"),
        "policy": f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
        "style": style,
        "script": script,
        "data": json_block({**contents, **made}),
    }
    # In one pass, so that the inserted texts are not searched for placeholders.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _template("page.html"))


def json_block(value: Any) -> str:
    """JSON that is safe inside an HTML script element, with null for NaN and infinity."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _template(name: str) -> str:
    return (files("s4m_pipeline.apps.report") / "template" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
