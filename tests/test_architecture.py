"""Who may import whom, read from the sources: cache <- s4m_pipeline <- stages."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from s4m_pipeline import layout
from s4m_pipeline.registry import MODULES

ROOT = Path(__file__).parents[1]
PACKAGES = ("cache", "s4m_pipeline", "stages")
SOURCES = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
REGISTRY = Path("s4m_pipeline/registry.py")
SHARED_BY_STAGES = {"stages.arguments", "stages.artifacts"}
EXCEPTIONS = {
    Path("stages/__main__.py"): {"stages.cli"},
    Path("stages/reference.py"): {"stages.cli"},
    Path("stages/run.py"): {"stages.pretrain_teacher", "stages.train_student"},  # asks what they depend on
}


@cache
def syntax_tree(source: Path) -> ast.Module:
    return ast.parse((ROOT / source).read_text(encoding="utf-8"), str(source))


def imported_names(source: Path) -> Iterator[str]:
    """Dotted names of everything a file imports anywhere in it; `from a import b` gives `a.b`."""
    package = ".".join(source.parent.parts)
    for node in ast.walk(syntax_tree(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]) if base else ".".join(above)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def identifiers(source: Path) -> set[str]:
    """Every variable, attribute and imported name that a file mentions."""
    nodes = ast.walk(syntax_tree(source))
    return {getattr(node, field, None) or "" for node in nodes for field in ("id", "attr", "name")}


def constants(source: Path) -> set[object]:
    """Every literal of a file."""
    return {node.value for node in ast.walk(syntax_tree(source)) if isinstance(node, ast.Constant)}


def imports_of(source: Path, *packages: str) -> list[str]:
    return [name for name in imported_names(source) if name.partition(".")[0] in packages]


def in_package(package: str) -> list[Path]:
    return [source for source in SOURCES if source.parts[0] == package]


@pytest.mark.parametrize("source", in_package("cache"), ids=str)
def test_cache__any_file__needs_neither_torch_nor_the_packages_above(source):
    above = (
        "torch",
        "torchvision",
        "mmengine",
        "mmdet",
        "mmcv",
        "sam2",
        "s4m_pipeline",
        "stages",
        "benchmarks",
    )
    assert imports_of(source, *above) == []


@pytest.mark.parametrize("source", in_package("s4m_pipeline"), ids=str)
def test_s4m_pipeline__any_file__does_not_know_the_stages(source):
    assert imports_of(source, "stages", "benchmarks", "typer") == []


@pytest.mark.parametrize("source", in_package("stages"), ids=str)
def test_stages__any_file__imports_no_other_stage(source):
    shared = SHARED_BY_STAGES | EXCEPTIONS.get(source, set())
    modules = {".".join(name.split(".")[:2]) for name in imports_of(source, "stages")}
    assert modules <= shared


def test_sam2__in_all_sources__is_imported_by_s4m_pipeline_sam_alone():
    importers = {source for source in SOURCES if imports_of(source, "sam2")}
    assert all(source.is_relative_to("s4m_pipeline/sam") for source in importers)


def test_register_all_modules__in_all_sources__is_named_by_the_registry_alone():
    assert [source for source in SOURCES if "register_all_modules" in identifiers(source)] == [REGISTRY]


def test_registry__of_our_modules__lists_every_file_that_registers_something():
    registering = {source for source in SOURCES if "register_module" in identifiers(source)}
    assert {Path(name.replace(".", "/") + ".py") for name in MODULES} == registering


def test_layout__file_names_of_an_experiment__are_written_there_alone():
    names = {layout.EVALUATION, layout.REPORT, layout.RUN, layout.METRICS, layout.WEIGHTS, layout.GENERATIONS}
    writing = {source for source in SOURCES if names & constants(source)}
    assert writing == {Path("s4m_pipeline/layout.py")}


def test_imported_names__of_each_form__are_absolute(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    source = Path("stages/some/module.py")
    (tmp_path / source).parent.mkdir(parents=True)
    (tmp_path / source).write_text(
        "import a.b as c\nfrom d import e\nfrom . import f\nfrom .g import h\n"
        "def later():\n    from ..i import j\n"
    )
    assert set(imported_names(source)) == {"a.b", "d.e", "stages.some.f", "stages.some.g.h", "stages.i.j"}
