"""The page on reliability: each promise names its tests, whose existence `test_names_in_text.py` checks."""

import re

from tests.test_docs.pages import ROOT

PAGE = ROOT / "docs/reliability.md"
FILES = re.compile(r"`(tests/[\w/]+\.py): (test_\w+(?:, test_\w+)*)`")


def test_reliability__every_fault__names_a_test() -> None:
    table = PAGE.read_text().partition("## Faults")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 35
    assert [cells[0] for cells in rows if not FILES.search(cells[2])] == []


def test_reliability__tests_of_faults__are_all_named() -> None:
    """Those of the folder that is there for them."""
    named = {name for _, names in FILES.findall(PAGE.read_text()) for name in names.split(", ")}
    folder = ROOT / "tests/test_reliability"
    there = {
        name
        for path in folder.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert there - named == set()
