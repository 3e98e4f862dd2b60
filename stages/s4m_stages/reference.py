"""Generate docs/cli.md from the help of the commands: `python -m s4m_stages.reference`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer import Context
from typer.main import get_command

from s4m_stages.cli import COMMANDS, build_app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"

OPENING = """# Command reference

Generated from the help of the commands by `make docs`; a test fails if the two differ. `s4m COMMAND --help`
shows the same.

Exit codes: 0 success, 1 failure (with a message that says what to do), 2 wrong usage, 130 and 143 ended by
Ctrl-C or SIGTERM after saving. Results go to stdout, progress and errors to stderr; `s4m --quiet COMMAND`
hides progress, `s4m --debug COMMAND` shows the whole traceback of an error, and `s4m --version` prints the
version. `--set` is explained in [configs.md](configs.md).
"""


def reference() -> str:
    """The whole page."""
    sections = ["\n".join(_section(*found)) for found in commands()]
    listing = [
        f"| [`s4m {name}`](#s4m-{name}) | {_cell(command.help)} |" for name, command in COMMANDS.items()
    ]
    return "\n".join([OPENING, "| command | |", "|---|---|", *listing, "", "\n".join(sections)])


def commands() -> Iterator[tuple[str, Any, Context]]:
    """Every command and command group: full name, the command, and the context that its help needs."""
    s4m = get_command(build_app())
    top = Context(s4m, info_name="s4m", terminal_width=110)  # independent of the terminal
    for name in COMMANDS:
        _, command, _ = s4m.resolve_command(top, [name])  # type: ignore[attr-defined]
        yield from _below(command, Context(command, info_name=name, parent=top))


def _below(command: Any, context: Context) -> Iterator[tuple[str, Any, Context]]:
    yield context.command_path, command, context
    for name, part in getattr(command, "commands", {}).items():
        yield from _below(part, Context(part, info_name=name, parent=context))


def _section(name: str, command: Any, context: Context) -> Iterator[str]:
    """Heading, help text, and a table row for each argument, option and subcommand."""
    yield f"{'#' * len(name.split())} {name}\n"
    about = command.help or COMMANDS[name.split()[1]].help
    yield about.strip() + "\n"
    yield f"```\n{context.get_usage().removeprefix('Usage: ')}\n```\n"
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [f"| `{_cell(left)}` | {_plain(_cell(text))} |" for left, text in records if left != "--help"]
    rows += [
        f"| [`{name} {part}`](#{_anchor(f'{name} {part}')}) | {_cell(below.help or '')} |"
        for part, below in getattr(command, "commands", {}).items()
    ]
    if rows:
        yield "\n".join(["| | |", "|---|---|", *rows, ""])


def _anchor(heading: str) -> str:
    return heading.replace(" ", "-")


def _cell(text: str) -> str:
    """The first paragraph on one line, escaped for a table cell."""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def _plain(text: str) -> str:
    """Escape HTML and Markdown emphasis."""
    return text.replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    PAGE.write_text(reference())
    print(PAGE)
