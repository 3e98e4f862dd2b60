"""`s4m bench`: what is shown is also written, as data."""

import json
from pathlib import Path

import pytest
import torch
import typer
from rich.table import Table

from s4m_cache.reader import CacheReader
from s4m_pipeline.apps.bench import growth, window
from s4m_pipeline.apps.bench.timing import show
from s4m_pipeline.models.registry import register_all
from s4m_stages.bench import bench


def test_bench__json__has_every_table_and_remark_of_each_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure() -> None:
        table = Table("", "ms", title="masks")
        table.add_row("[bold]packed", "3.5")
        table.add_row("dense", "40")
        show(table)
        show("a [b]remark[/b]")

    monkeypatch.setattr(window, "main", measure)
    bench(["window"], tmp_path / "all.json")
    (found,) = json.loads((tmp_path / "all.json").read_text()).values()
    table, remark = found["results"]
    assert table == {"title": "masks", "columns": ["", "ms"], "rows": [["packed", "3.5"], ["dense", "40"]]}
    assert remark == {"text": "a remark"}


def test_bench__unknown_name__is_refused_with_the_known_ones() -> None:
    with pytest.raises(typer.BadParameter, match=r"windows: expected all, or sam, .*limits"):
        bench(["window", "windows"], None)


def test_growth__rows__are_of_complete_generations(tmp_path: Path) -> None:
    growth.write_labels(tmp_path, 9)
    growth.read_labels(tmp_path, 9)
    register_all()
    refine = growth.refine_in(tmp_path)
    table = Table("", "images", "seconds", "ms per image", "most memory, MB")
    growth.add_rows(table, "refine", (3, 5), refine, torch.device("cpu"))
    assert [*table.columns[1].cells] == ["3", "5"]
    made = [CacheReader.current(path.parent) for path in tmp_path.glob("tmp*/CURRENT.json")]
    assert sorted(len(reader) for reader in made) == [3, 3, 5]
    assert all(reader.read(1).instances for reader in made)
