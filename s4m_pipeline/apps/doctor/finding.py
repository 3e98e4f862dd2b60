"""One line of the doctor's report, and the wrapper that keeps a failing check from stopping the others."""

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
    """`ok`; `warn`: works, but slowly or with a later problem; `fix`: something will fail."""
    text: str
    command: str | None = None
    """Shell command that fixes it."""


Check = Callable[[], Iterable[Finding]]


def run_check(name: str, check: Check) -> list[Finding]:
    """The findings of a check; one that fails itself becomes a warning under `name`."""
    try:
        return list(check())
    except Exception as error:  # a broken installation may raise anything
        return [Finding(name, "warn", f"could not be checked ({type(error).__name__}: {first_line(error)})")]


def first_line(error: object) -> str:
    """The first line of a message, at most 200 characters."""
    return str(error).strip().partition("\n")[0][:200]


def normalized(distribution: str) -> str:
    """A distribution's name as installers compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def required(distribution: str) -> str:
    """This project's requirement, such as `torch<2.15,>=2.11`; the bare name if there is none."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        if normalized(re.split(r"[^\w.-]", requirement)[0]) == normalized(distribution):
            return requirement.partition(";")[0].strip()
    return distribution


def pasted(path: object) -> str:
    """A path as a word of a shell command."""
    return shlex.quote(str(path))


def install(*distributions: str) -> str:
    """The command that installs distributions in the versions that this project requires."""
    wanted = " ".join(f"'{required(name)}'" for name in distributions)
    return f"{sys.executable} -m pip install --force-reinstall --no-deps {wanted}"
