"""Every command line in a code block is parsed as the program would, with its `--set` on a real config.

**Nothing is run here**: that a command does what the page says is the business of that command's own tests.
Lines that need a reader's own data or a trained network, in blocks marked `<!-- needs data: ... -->`, are
parsed as all others.
"""

import importlib.util
from typing import Any

import pytest
from typer.main import get_command

from s4m_pipeline.config.experiment import load_experiment
from s4m_stages.cli import build_app
from tests.test_docs.pages import LINES, ROOT, STAND_IN, target_rules


def parse(arguments: list[str]) -> dict[str, Any]:
    """Parse as `s4m ARGUMENTS`, without doing it; returns the values of the command's own parameters.

    Raises:
        Exception: of the command line's library, if the program would end with "wrong usage".
    """
    command: Any = get_command(build_app())
    context = command.make_context("s4m", list(arguments))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return dict(context.params)


def test_lines__of_all_code_blocks__call_what_is_tested_here():
    assert {line.words[0] for line in LINES} <= {"s4m", "make", "python"}
    assert len(LINES) > 50


@pytest.mark.parametrize("line", [line for line in LINES if line.words[0] == "s4m"], ids=str)
def test_s4m_line__in_a_code_block__is_parsed(line):
    given = parse(line.words[1:])
    if overrides := given.get("overrides"):
        config = ROOT / (given.get("config") or STAND_IN)
        load_experiment(config if config.is_file() else STAND_IN, overrides)


@pytest.mark.parametrize("line", [line for line in LINES if line.words[0] == "make"], ids=str)
def test_make_line__in_a_code_block__names_a_target_and_its_variables(line):
    rules, makefile = target_rules(), (ROOT / "Makefile").read_text()
    for word in line.words[1:]:
        variable, assigned, _ = word.partition("=")
        assert f"$({variable}" in makefile or f"{variable} ?=" in makefile if assigned else word in rules


@pytest.mark.parametrize("line", [line for line in LINES if line.words[0] == "python"], ids=str)
def test_python_line__in_a_code_block__names_a_module_that_exists(line):
    module = line.words[line.words.index("-m") + 1]
    assert module == "pip" or importlib.util.find_spec(module) is not None


def test_parse__of_a_wrong_line__is_refused():
    for wrong, why in {
        "nonsense a.py": "no such command",
        "refine": "missing",
        "refine a.py --nonsense": "no such option",
        "data demo": "missing",
        "cache diff CACHE A B": "valid integer",
    }.items():
        with pytest.raises(Exception, match=f"(?i){why}"):
            parse(wrong.split())
    assert parse(["refine", "a.py", "--set", "sd.points=3"])["overrides"] == ["sd.points=3"]
