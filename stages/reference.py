"""docs/cli.md, the reference of all commands, out of the commands' own help: `python -m stages.reference`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer import Context
from typer.main import get_command

from stages.cli import COMMANDS, build_app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"

OPENING = """# Every command

Written by `make docs` out of the commands' own help; a test fails when the two differ. `s4m COMMAND --help`
shows the same.

Exit codes: 0 done, 1 failed (with a message that says what to do), 2 wrong usage, 130 and 143 ended by Ctrl-C
or SIGTERM after saving. Results go to stdout, progress and errors to stderr; `s4m --quiet COMMAND` leaves
progress out, and `s4m --version` prints the version. `--set` is explained in [configs.md](configs.md).
"""


def reference() -> str:
    """The whole page."""
    sections = ["\n".join(_section(*found)) for found in commands()]
    listing = [
        f"| [`s4m {name}`](#s4m-{name}) | {_cell(command.help)} |" for name, command in COMMANDS.items()
    ]
    return "\n".join([OPENING, "| command | |", "|---|---|", *listing, "", "\n".join(sections)])


def commands() -> Iterator[tuple[str, Any, Context]]:
    """Every command and group of commands: its whole name, itself, and the context that its help needs."""
    s4m = get_command(build_app())
    top = Context(s4m, info_name="s4m", terminal_width=110)  # not that of the terminal at hand
    for name in COMMANDS:
        _, command, _ = s4m.resolve_command(top, [name])  # type: ignore[attr-defined]
        yield from _below(command, Context(command, info_name=name, parent=top))


def _below(command: Any, context: Context) -> Iterator[tuple[str, Any, Context]]:
    yield context.command_path, command, context
    for name, part in getattr(command, "commands", {}).items():
        yield from _below(part, Context(part, info_name=name, parent=context))


def _section(name: str, command: Any, context: Context) -> Iterator[str]:
    """Heading, what the help says, and a line for each argument, option and command below."""
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
    """The first paragraph on one line, with nothing that ends a cell of a table."""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def _plain(text: str) -> str:
    """As text that is shown as it is: `<name>` is no HTML, `*` no emphasis."""
    return text.replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    PAGE.write_text(reference())
    print(PAGE)
