"""The documentation against the program: commands, settings, files, links, and the reference of commands.

Every command line in a code block of README.md and docs/ is parsed as the program would parse it, with its
`--set` settings on a real config. **Nothing is run here**: that a command does what the page says is the
business of that command's own tests. Lines that need a reader's own data or a trained network, in blocks
marked `<!-- needs data: ... -->`, are parsed as all others.
"""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command

from s4m_pipeline.errors import UserError
from s4m_pipeline.options.experiment import load_experiment
from stages.cli import build_app
from stages.reference import PAGE, commands, reference

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKING = [*PAGES, *sorted(ROOT.glob("*/SCHEMA.md")), *sorted(ROOT.glob("s4m_pipeline/**/MODEL_CARD.md"))]
STAND_IN = ROOT / "configs/demo/demo.py"
"""Config that `--set` is tried on where a page names one that its reader is to write."""

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
GROUPS = ("data", "teacher", "sam", "sd", "refine", "student")
NEEDS_NOTHING = ("s4m data demo", "s4m data coins", "s4m data miniature", "s4m doctor", "make ")
PROGRAMS = ("s4m", "make", "torchrun", "srun", "python")


class Line(NamedTuple):
    """A command in a code block."""

    page: Path
    words: list[str]

    def __str__(self) -> str:
        return f"{self.page.name}: {shlex.join(self.words)}"


def blocks(page: Path) -> Iterator[str]:
    """Contents of a page's code blocks that are not in another language than the shell's."""
    for _, language, content in FENCE.findall(page.read_text()):
        if language in ("", "bash", "sh", "shell"):
            yield content


def lines(page: Path) -> Iterator[Line]:
    for block in blocks(page):
        yield from lines_of(page, block)


def lines_of(page: Path, block: str) -> Iterator[Line]:
    for text in block.replace("\\\n", " ").splitlines():
        if text.strip().partition(" ")[0].rpartition("/")[2] in PROGRAMS:
            words = shlex.split(text, comments=True)
            yield Line(page, without_launcher([words[0].rpartition("/")[2], *words[1:]]))


def without_launcher(words: list[str]) -> list[str]:
    """The command that srun or torchrun starts: from `s4m` or `make` on, or from what follows `-m stages`."""
    if "-m" in words and words[words.index("-m") + 1] == "stages":
        return ["s4m", *words[words.index("-m") + 2 :]]
    begins = [words.index(program) for program in ("s4m", "make") if program in words]
    return words[min(begins, default=0) :]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def spans(page: Path) -> list[str]:
    """What stands between backticks in a page's text, on one line; of `a|b` the first."""
    return [
        re.sub(r"\|\w+", "", " ".join(text.split()))
        for text in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))
    ]


LINES = [line for page in PAGES if page != PAGE for line in lines(page)]
SPANS = [(page, text) for page in PAGES for text in spans(page)]


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


@cache
def options_of() -> dict[str, set[str]]:
    """Names of the options of each command and group of commands."""
    return {
        name: {option for item in command.get_params(context) for option in item.opts + item.secondary_opts}
        for name, command, context in commands()
    }


def target_rules() -> dict[str, str]:
    """Targets of the Makefile, and what they are made of and by."""
    text = (ROOT / "Makefile").read_text()
    return dict(re.findall(r"^([a-z-]+):(?!=)(.*(?:\n\t.*)*)", text, re.MULTILINE))


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


def test_s4m__in_the_text__names_commands_and_options_that_exist():
    wrong = []
    for page, text in SPANS:
        if not text.startswith("s4m ") or "COMMAND" in text:
            continue
        words = [re.split(r"[=/]", word)[0] if word.startswith("-") else word for word in text.split()]
        depth = max(
            n for n in range(len(words) + 1) if n == 0 or n == 1 or " ".join(words[:n]) in options_of()
        )
        known = options_of().get(" ".join(words[:depth]), {"--quiet", "--version", "--help"})
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


def links(page: Path) -> list[str]:
    text = re.sub(r"`[^`]*`", "", prose(page))
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """What GitHub and others make of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links__of_a_page__lead_to_files_and_headings(page):
    assert broken_links(page) == []


def test_links__that_lead_nowhere__are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One (1) `heading`\n[a](#one-1-heading) [b](#two) ![c](no.png) [d](page.md#no) `[e](no)`\n"
        "```\n[f](no.md)\n# no-heading\n```\n[g](https://example.org) [h](#no-heading)\n"
    )
    assert broken_links(page) == ["#two", "no.png", "page.md#no", "#no-heading"]


def test_pages__all_of_them__are_reachable_from_the_map():
    seen, new = {ROOT / "README.md"}, [ROOT / "docs/index.md"]
    while new:
        page = new.pop()
        seen.add(page)
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
        new += [target for target in targets - seen if target.suffix == ".md" and target.is_file()]
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in seen] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks__with_commands__say_what_they_need_or_need_nothing(page):
    """What needs no mark works after `make setup` alone, or with what the block's first line writes."""
    text, unmarked = page.read_text(), []
    for block in FENCE.finditer(text):
        before = text[: block.start()].rstrip("\n").rpartition("\n")[2]
        first = next((line for line in lines_of(page, block[3]) if line.words[0] != "python"), None)
        if page == PAGE or first is None or re.fullmatch(r" *<!-- needs .*-->", before):
            continue
        if not str(first).partition(": ")[2].startswith(NEEDS_NOTHING):
            unmarked.append(str(first))
    assert unmarked == []


def test_marks__of_what_a_block_needs__stand_right_before_one():
    marks = [
        (page.name, following)
        for page in PAGES
        for following in re.findall(r"^ *<!-- needs .*?-->\n(.*)$", page.read_text(), re.MULTILINE)
    ]
    assert len(marks) > 10
    assert [mark for mark in marks if not mark[1].lstrip().startswith("```")] == []


def test_reference__of_all_commands__is_up_to_date():
    assert PAGE.read_text() == reference(), "docs/cli.md is out of date: make docs"


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
