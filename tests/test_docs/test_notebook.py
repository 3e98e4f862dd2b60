"""The notebook of docs/: its cells run in order, in a folder with a few drawn scenes as the demo's data."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from s4m_pipeline.core.processes import call
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES
from s4m_pipeline.data.scenes.writer import Subset, write_scenes
from tests.test_docs.pages import ROOT
from tests.test_docs.test_commands_run import SCHEDULE

NOTEBOOK = json.loads((ROOT / "docs/notebook.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; returns the value of its last line, which a notebook shows, if that is an expression."""
    *first, last = ast.parse(source).body
    exec(compile(ast.Module(first, []), "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return exec(compile(ast.Module([last], []), "cell", "exec"), names)


@pytest.mark.slow
def test_notebook__every_cell__runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subsets = (Subset("train", 0, 12), Subset("val", 1, 3), Subset("test", 2, 3))
    write_scenes(tmp_path / "data/demo", subsets, DEMO_FAMILIES, (4, 98))
    monkeypatch.chdir(tmp_path)
    call(["data", "split", "data/demo/train.json", "--percent", "50", "--out", "data/demo/split"])
    names: dict[str, Any] = {}
    shown = []
    for source in CODE:
        shown.append(run_cell(source, names))
        if not names["overrides"]:
            names["overrides"] = [f"{key}={value}" for key, value in SCHEDULE.items()]
    assert "the teacher, validation AP" in shown[1]
    assert isinstance(shown[3], Image.Image)
    assert "pseudo-labels in 6 images" in shown[4]
    assert shown[5].keys() == {"teacher", "student"}
    assert (tmp_path / "work_dirs/demo/report.html").is_file()


def test_notebook__as_committed__has_no_outputs() -> None:
    assert all(not cell.get("outputs") for cell in NOTEBOOK["cells"])
