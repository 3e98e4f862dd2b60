"""The three places where the program speaks, so that `--quiet` is one switch and piped results stay clean."""

from rich.console import Console

progress = Console(stderr=True, highlight=False)
"""Progress bars, notes and warnings, on stderr; silenced by `s4m --quiet`."""

result = Console(highlight=False)
"""What a command was asked for, as tables or lines, on stdout; never silenced. JSON goes to plain `print`."""

error = Console(stderr=True, highlight=False, soft_wrap=True, style="bold red")
"""What stopped a command, on stderr; never silenced. Not wrapped: paths in it can be copied."""
