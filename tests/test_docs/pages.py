"""Commands and names in README.md and docs/, and the targets of the Makefile."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from s4m_stages.reference import PAGE

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
STAND_IN = ROOT / "configs/demo/demo.py"
"""Config that `--set` is tried on where a page names one that its reader is to write."""
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
PROGRAMS = ("s4m", "make", "torchrun", "srun", "python")


class Line(NamedTuple):
    """A command in a code block."""

    page: Path
    words: list[str]

    def __str__(self) -> str:
        return f"{self.page.name}: {shlex.join(self.words)}"


class Block(NamedTuple):
    """A code block with commands or Python, and the comment right above it that says what it needs."""

    mark: str | None
    """`needs data: ...`: a reader must have that first; `needs more: ...`: the tests do not run it."""
    lines: list[Line]
    python: str = ""

    @property
    def runs(self) -> bool:
        """Whether the tests run it."""
        has_commands = any(line.words[0] == "s4m" for line in self.lines)
        return (has_commands or bool(self.python)) and not (self.mark or "").startswith("needs more")


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for block in FENCE.finditer(text):
        found = list(lines_of(page, block[3])) if block[2] in ("", "bash", "sh", "shell") else []
        python = block[3] if block[2] == "python" else ""
        above = text[: block.start()].rstrip("\n").rpartition("\n")[2]
        mark = re.fullmatch(r" *<!-- (needs .*?) *-->", above)
        if found or python:
            yield Block(mark and mark[1], found, python)


def lines_of(page: Path, block: str) -> Iterator[Line]:
    for text in block.replace("\\\n", " ").splitlines():
        if text.strip().partition(" ")[0].rpartition("/")[2] in PROGRAMS:
            words = shlex.split(text, comments=True)
            yield Line(page, without_launcher([words[0].rpartition("/")[2], *words[1:]]))


def without_launcher(words: list[str]) -> list[str]:
    """The command that srun or torchrun starts: from `s4m` or `make` on, or what follows `-m s4m_stages`."""
    if "-m" in words and words[words.index("-m") + 1] == "s4m_stages":
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


BLOCKS = [block for page in PAGES if page != PAGE for block in blocks(page)]
LINES = [line for block in BLOCKS for line in block.lines]
SPANS = [(page, text) for page in PAGES for text in spans(page)]


def target_rules() -> dict[str, str]:
    """Targets of the Makefile, and what they are made of and by."""
    text = (ROOT / "Makefile").read_text()
    return dict(re.findall(r"^([a-z-]+):(?!=)(.*(?:\n\t.*)*)", text, re.MULTILINE))
