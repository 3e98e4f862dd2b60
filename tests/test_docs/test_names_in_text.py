"""What the text names exists: commands and options, make's targets, settings, files, functions."""

import ast
import re
from functools import cache
from typing import Any

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_stages.reference import commands
from tests.test_docs.pages import PAGES, ROOT, SPANS, STAND_IN, target_rules

GROUPS = ("data", "teacher", "sam", "sd", "refine", "student")


@cache
def options_of() -> dict[str, set[str]]:
    """Names of the options of each command and group of commands."""
    return {
        name: {option for item in command.get_params(context) for option in item.opts + item.secondary_opts}
        for name, command, context in commands()
    }


def test_s4m__in_the_text__names_commands_and_options_that_exist():
    wrong = []
    for page, text in SPANS:
        if not text.startswith("s4m ") or "COMMAND" in text:
            continue
        words = [re.split(r"[=/]", word)[0] if word.startswith("-") else word for word in text.split()]
        depth = max(
            n for n in range(len(words) + 1) if n == 0 or n == 1 or " ".join(words[:n]) in options_of()
        )
        known = options_of().get(" ".join(words[:depth]), {"--quiet", "--debug", "--version", "--help"})
        if words[:2] == ["s4m", "report"]:
            known = known | options_of()["s4m report page"]
        options = {word for word in words if re.match(r"--?[a-z]", word)}
        if (depth == 1 and not words[1].startswith("-")) or not options <= known | {"--set"}:
            wrong.append(f"{page.name}: {text}")
    assert wrong == []


def test_make__in_the_text__names_targets_that_exist():
    named = {(page.name, text.split()[1]) for page, text in SPANS if text.startswith("make ")}
    assert {(page, target) for page, target in named if target not in target_rules()} == set()


def test_settings__in_the_text__exist():
    """`student.burn_in`, `sd.loss=feature`, `--set refine.prompt=none`: key and value, if one is given."""
    wrong = []
    for page, text in SPANS:
        setting = re.fullmatch(rf"(?:--set )?((?:{'|'.join(GROUPS)})\.[a-z_.]+)(?: ?= ?(\S+))?", text)
        if setting is None or re.search(r"\.(py|json|jsonl|yaml|pth|safetensors|html|png)$", setting[1]):
            continue
        fits = not setting[2] or value_fits(f"{setting[1]}={setting[2]}")
        if not setting_exists(setting[1]) or not fits:
            wrong.append(f"{page.name}: {text}")
    assert wrong == []


def value_fits(override: str) -> bool:
    """Whether a value is of its option's kind; it may need another one beside it (`sd.loss=feature`)."""
    if re.search(r"=.*([A-Z]|\.\.\.)", override.replace("None", "")):
        return True  # a place for the reader's own
    try:
        load_experiment(STAND_IN, [override])
    except UserError as error:
        return "expected" not in str(error)
    return True


def setting_exists(key: str) -> bool:
    options, _ = load_experiment_once()
    for name in key.split("."):
        if not hasattr(options, name):
            return False
        options = getattr(options, name)
    return True


@cache
def load_experiment_once() -> tuple[Any, dict[str, Any]]:
    return load_experiment(STAND_IN, [])


def test_files__named_in_pages__exist():
    """Configs, modules and pages of the project, by their path in it."""
    named = re.compile(r"(?<![\w/.-])((?:configs|docs|stages|s4m_pipeline|tests|benchmarks)/[\w./-]*\.\w+)\b")
    wrong = [
        f"{page.name}: {path}"
        for page in PAGES
        for path in named.findall(page.read_text())
        if not (ROOT / path).exists() and not (page.parent / path).exists()
    ]
    assert wrong == []


def test_functions__named_with_their_file__exist():
    """`losses/structural.py: structural_loss`: the tables of method.md and architecture.md."""
    named = re.compile(r"([\w/]+\.py): ((?:[A-Za-z_]\w*(?:\.\w+)?(?:, )?)+)")
    found = [
        (page, file, name)
        for page, text in SPANS
        for file, names in named.findall(text)
        for name in names.strip(", ").split(", ")
    ]
    assert len(found) > 20
    wrong = [f"{page.name}: {file}: {name}" for page, file, name in found if name not in defined_in(file)]
    assert wrong == []


@cache
def defined_in(file: str) -> set[str]:
    """Functions, classes, methods and constants of a module, by its path in the root or in s4m_pipeline/."""
    (path,) = [folder / file for folder in (ROOT, ROOT / "s4m_pipeline") if (folder / file).is_file()]
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names
