"""Who may import whom, read from the sources: cache <- the floors of s4m_pipeline <- stages."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from s4m_pipeline.core import paths
from s4m_pipeline.models.registry import MODULES

ROOT = Path(__file__).parents[1]
FOLDERS = {"s4m_cache": ROOT / "cache", "s4m_pipeline": ROOT, "s4m_stages": ROOT / "stages"}
SOURCES = {
    path.relative_to(folder).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for package, folder in FOLDERS.items()
    for path in sorted((folder / package).rglob("*.py"))
}
"""Every source file by the dotted name it is imported by."""

FLOORS = (
    "apps",
    "planning",
    "student",
    "train",
    "refine",
    "evaluation",
    "models",
    "sam",
    "visual",
    "data",
    "experiment",
    "config",
    "core",
)
"""Packages of `s4m_pipeline`, from top to bottom: each may import those after it, and no other."""

SHARED_BY_STAGES = {"s4m_stages.arguments"}
EXCEPTIONS = {
    "s4m_stages.__main__": {"s4m_stages.cli"},
    "s4m_stages.reference": {"s4m_stages.cli"},
    "s4m_stages.cache": {"s4m_stages.cache_tables"},
    "s4m_stages.data": {"s4m_stages.convert", "s4m_stages.examples"},
    "s4m_stages.export": {"s4m_stages.export_labels"},
}


@cache
def syntax_tree(source: Path) -> ast.Module:
    return ast.parse(source.read_text(encoding="utf-8"), str(source))


def imported_names(source: Path) -> Iterator[str]:
    """Dotted names of everything a file imports anywhere in it; `from a import b` gives `a.b`."""
    for node in ast.walk(syntax_tree(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0, f"{source}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def identifiers(source: Path) -> set[str]:
    """Every variable, attribute and imported name that a file mentions."""
    nodes = ast.walk(syntax_tree(source))
    return {getattr(node, field, None) or "" for node in nodes for field in ("id", "attr", "name")}


def constants(source: Path) -> set[object]:
    """Every literal of a file."""
    return {node.value for node in ast.walk(syntax_tree(source)) if isinstance(node, ast.Constant)}


def imports_of(source: Path, *packages: str) -> list[str]:
    return [name for name in imported_names(source) if name.partition(".")[0] in packages]


def modules_of(package: str) -> list[str]:
    return [name for name in SOURCES if name.partition(".")[0] == package]


def second_part(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("module", modules_of("s4m_cache"))
def test_cache__any_file__needs_neither_torch_nor_the_packages_above(module):
    above = ("torch", "torchvision", "mmengine", "mmdet", "mmcv", "sam2", "s4m_pipeline", "s4m_stages")
    assert imports_of(SOURCES[module], *above) == []


@pytest.mark.parametrize("module", modules_of("s4m_pipeline"))
def test_s4m_pipeline__any_file__imports_only_floors_below(module):
    assert imports_of(SOURCES[module], "s4m_stages", "typer") == []
    floor = second_part(module)
    if not floor:  # the package itself, which offers its public names
        return
    assert floor in FLOORS
    allowed = {floor, *FLOORS[FLOORS.index(floor) + 1 :]}
    imported = {second_part(name) for name in imports_of(SOURCES[module], "s4m_pipeline")}
    assert imported <= allowed


@pytest.mark.parametrize("module", [name for name in SOURCES if name.startswith("s4m_pipeline.apps.")])
def test_apps__any_file__imports_no_other_app(module):
    own = module.split(".")[2]
    names = imports_of(SOURCES[module], "s4m_pipeline")
    assert {name.split(".")[2] for name in names if second_part(name) == "apps"} <= {own}


@pytest.mark.parametrize("module", modules_of("s4m_stages"))
def test_stages__any_file__imports_no_other_stage(module):
    shared = SHARED_BY_STAGES | EXCEPTIONS.get(module, set())
    found = {".".join(name.split(".")[:2]) for name in imports_of(SOURCES[module], "s4m_stages")}
    assert found <= shared


def test_sam2__in_all_sources__is_imported_by_s4m_pipeline_sam_alone():
    importers = [name for name, source in SOURCES.items() if imports_of(source, "sam2")]
    assert importers
    # The benchmarks time ours beside the package's own predictor.
    assert all(f"{name}.".startswith(("s4m_pipeline.sam.", "s4m_pipeline.apps.bench.")) for name in importers)


def test_registry__of_our_modules__lists_every_file_that_registers_something():
    registering = {name for name, source in SOURCES.items() if "register_module" in identifiers(source)}
    assert set(MODULES) == registering


def test_paths__file_names_of_an_experiment__are_written_there_alone():
    names = {paths.EVALUATION, paths.REPORT, paths.RUN, paths.METRICS, paths.WEIGHTS, paths.GENERATIONS}
    writing = [name for name, source in SOURCES.items() if names & constants(source)]
    assert writing == ["s4m_pipeline.core.paths"]
