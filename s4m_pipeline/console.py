"""The three places where the program speaks, so that `--quiet` is one switch and piped results stay clean.

What is printed is shown as it is: a bracket in a path or a class name is no markup.
"""

from rich.console import Console

progress = Console(stderr=True, highlight=False, markup=False)
"""Progress bars, notes and warnings, on stderr; silenced by `s4m --quiet`."""

result = Console(highlight=False, markup=False, soft_wrap=True)
"""What a command was asked for, as tables or lines, on stdout; never silenced. JSON goes to plain `print`.
Not wrapped: paths in it can be copied."""

error = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, style="bold red")
"""What stopped a command, on stderr; never silenced. Not wrapped either."""
