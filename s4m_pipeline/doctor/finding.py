"""One line of the doctor's report, and how a check is kept from stopping the others."""

import re
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

Status = Literal["ok", "warn", "fix"]
DISTRIBUTION = "s4m-pipeline"


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    status: Status
    """`ok`; `warn`: works, but slower or with a surprise to come; `fix`: something will fail."""
    text: str
    command: str | None = None
    """What mends it, to be pasted into a shell."""


Check = Callable[[], Iterable[Finding]]


def run_check(name: str, check: Check) -> list[Finding]:
    """The findings of a check; one that fails itself becomes a warning under `name`."""
    try:
        return list(check())
    except Exception as error:  # a broken installation may raise anything, and the others are to be seen
        return [Finding(name, "warn", f"could not be checked ({type(error).__name__}: {first_line(error)})")]


def first_line(error: object) -> str:
    """The first line of a message, of bearable length."""
    return str(error).strip().partition("\n")[0][:200]


def normalised(distribution: str) -> str:
    """A distribution's name as installers compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def required(distribution: str) -> str:
    """This project's requirement, `torch<2.12,>=2.11`; the bare name where none is known."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        if normalised(re.split(r"[^\w.-]", requirement)[0]) == normalised(distribution):
            return requirement.partition(";")[0].strip()
    return distribution


def pasted(path: object) -> str:
    """A path as a word of a shell command."""
    return shlex.quote(str(path))


def install(*distributions: str) -> str:
    """The command that puts distributions back in the version that this project needs."""
    wanted = " ".join(f"'{required(name)}'" for name in distributions)
    return f"{sys.executable} -m pip install --force-reinstall --no-deps {wanted}"
