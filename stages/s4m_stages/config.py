"""`s4m config`: every setting of an experiment."""

import os
from pathlib import Path

from s4m_pipeline.core import console
from s4m_stages.arguments import Config, Overrides


def config(config_path: Config, overrides: Overrides = None) -> None:
    """List every setting with its value, its default, where the value comes from, and what it means.

    Keys of mmengine and mmdet (model, optimizer, pipelines) come last; their defaults are those of mmdet.
    """
    from rich.text import Text

    from s4m_pipeline.config.listing import list_settings

    for setting in list_settings(config_path, overrides or []):
        line = Text(f"{setting.key} = {setting.value!r}", style="bold")
        usual = setting.default if setting.origin != "default" else None
        note = _shown(setting.origin) + (f"; default: {usual}" if usual is not None else "")
        line.append(f"  ({note})", style="dim")
        console.result.print(line)
        if setting.meaning:
            console.result.print(f"    {setting.meaning}")


def _shown(origin: str) -> str:
    """Files below the current folder by their relative path."""
    here = Path.cwd()
    return os.path.relpath(origin) if Path(origin).is_relative_to(here) else origin
