"""Blocks with commands say what their reader must have first: `<!-- needs data: ... -->`."""

import re

import pytest

from stages.reference import PAGE
from tests.test_docs.pages import FENCE, PAGES, ROOT, lines_of

NEEDS_NOTHING = ("s4m data demo", "s4m data coins", "s4m data miniature", "s4m doctor", "make ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks__with_commands__say_what_they_need_or_need_nothing(page):
    """What needs no mark works after `make setup` alone, or with what the block's first line writes."""
    text, unmarked = page.read_text(), []
    for block in FENCE.finditer(text):
        before = text[: block.start()].rstrip("\n").rpartition("\n")[2]
        first = next((line for line in lines_of(page, block[3]) if line.words[0] != "python"), None)
        if page == PAGE or first is None or re.fullmatch(r" *<!-- needs .*-->", before):
            continue
        if not str(first).partition(": ")[2].startswith(NEEDS_NOTHING):
            unmarked.append(str(first))
    assert unmarked == []


def test_marks__of_what_a_block_needs__stand_right_before_one():
    marks = [
        (page.name, following)
        for page in PAGES
        for following in re.findall(r"^ *<!-- needs .*?-->\n(.*)$", page.read_text(), re.MULTILINE)
    ]
    assert len(marks) > 10
    assert [mark for mark in marks if not mark[1].lstrip().startswith("```")] == []
