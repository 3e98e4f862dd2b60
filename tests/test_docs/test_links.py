"""Links lead to files and headings, and every page is reached by them."""

import re
from pathlib import Path

import pytest

from tests.test_docs.pages import PAGES, ROOT, prose

LINKING = [*PAGES, *sorted(ROOT.glob("*/SCHEMA.md")), *sorted(ROOT.glob("s4m_pipeline/**/MODEL_CARD.md"))]


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
