"""Where the program writes, so that `--quiet` is one switch and piped results stay clean.

Texts are printed as they are: brackets in a path or a class name are no markup.
"""

from collections.abc import Sequence

from rich.console import Console

progress = Console(stderr=True, highlight=False, markup=False)
"""Progress bars, notes and warnings, on stderr; silenced by `s4m --quiet`."""

result = Console(highlight=False, markup=False, soft_wrap=True)
"""What a command was asked for, as tables or lines, on stdout; never silenced. JSON goes to plain `print`.
Not wrapped: paths in it can be copied."""

error = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, style="bold red")
"""What stopped a command, on stderr; never silenced. Not wrapped either."""


_NUMBER_STARTS = frozenset("0123456789+-")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as a result; columns of numbers are aligned to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column, *cells in zip(columns, *rows, strict=True):
        numbers = all(cell[:1] in _NUMBER_STARTS for cell in cells)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    result.print(table)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same in Markdown."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
