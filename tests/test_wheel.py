"""A built wheel: what it installs, and that a user's files of similar names do not matter to it."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from s4m_pipeline.config.listing import list_settings
from s4m_stages.reference import OPENING, PAGE
from tests.test_docs.pages import target_rules

ROOT = Path(__file__).parents[1]
TRAP = "raise ImportError('a file of the user was imported')\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree, built from a copy of what git tracks."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for name in filter(None, tracked):
        if not name.startswith(("tests/", "docs/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).symlink_to(ROOT / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", target, source], check=True)
    (path,) = target.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, as an installation has it."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_wheel__its_top_level_modules__have_names_of_our_own(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "s4m_cache",
        "s4m_pipeline",
        "s4m_stages",
    }


def test_wheel__every_tracked_source_config_and_weight__is_in_it(site: Path) -> None:
    folders = {"cache/s4m_cache": "s4m_cache", "stages/s4m_stages": "s4m_stages"}
    folders |= {"s4m_pipeline": "s4m_pipeline", "configs": "s4m_pipeline/configs"}
    tracked = subprocess.check_output(["git", "ls-files", *folders], cwd=ROOT, text=True).splitlines()
    missing = []
    for name in tracked:
        source, target = next(item for item in folders.items() if name.startswith(item[0] + "/"))
        if (ROOT / name).is_file() and not (site / (target + name.removeprefix(source))).is_file():
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("script", ["command", "predictor"])
def test_wheel__in_a_folder_with_files_of_similar_names__runs_its_own(
    script: str, site: Path, tmp_path: Path
) -> None:
    for name in ("cache.py", "stages.py", "configs.py", "benchmarks.py"):
        (tmp_path / name).write_text(TRAP)
    code = {
        "command": "import sys; from s4m_stages.cli import main\n"
        "sys.argv = ['s4m', 'data', 'miniature', 'coco', 'out']; main()",
        "predictor": "from s4m_pipeline import Predictor; import s4m_pipeline; print(s4m_pipeline.__file__)",
    }
    (tmp_path / "script.py").write_text(code[script])  # its folder comes first on the path
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if script == "command":
        assert list((tmp_path / "out").iterdir())
    else:
        assert Path(done.stdout.strip()).is_relative_to(site)


def test_messages__of_all_sources__name_nothing_that_a_wheel_lacks() -> None:
    """Nor does the help of the commands, or what `s4m config` says of a setting."""
    targets = "|".join(target_rules())
    absent = re.compile(rf"(?<![\w./])(?:make (?:{targets})\b|(?:docs|configs|tests|stages|cache)/\w)")
    sources = [
        path for folder in ("s4m_pipeline", "stages", "cache") for path in (ROOT / folder).rglob("*.py")
    ]
    found = {
        f"{path.name}: {text}"
        for path in sources
        if path.name != "reference.py"
        for text in texts(ast.parse(path.read_text()))
        if absent.search(text)
    }
    help_text = PAGE.read_text().removeprefix(OPENING)
    settings = "".join(setting.meaning for setting in list_settings(Path("demo")))
    assert (found, absent.findall(help_text), absent.findall(settings)) == (set(), [], [])


def texts(tree: ast.Module) -> Iterator[str]:
    """The string constants of a file, without its docstrings."""
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.value
