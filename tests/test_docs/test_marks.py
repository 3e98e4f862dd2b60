"""Blocks with commands say what their reader must have first, and what keeps the tests from running them.

`<!-- needs data: ... -->` above a block names what a reader must have first; the tests have stand-ins for it.
`<!-- needs more: ... -->` names what is not to be had in a test: GPUs, downloads, servers, hours.
"""

import re

from tests.test_docs.pages import BLOCKS, PAGES

NEEDS_NOTHING = (
    "s4m data demo",
    "s4m data coins",
    "s4m data crowds",
    "s4m data miniature",
    "s4m bench limits",
    "s4m doctor",
    "s4m plan",
    "make ",
)


def test_blocks__with_commands__say_what_they_need_or_need_nothing():
    """What needs no mark works after `make setup` alone, or with what the block's first line writes."""
    lines = [block.lines[0] for block in BLOCKS if block.mark is None and block.lines]
    begins = [str(line).partition(": ")[2] for line in lines if line.words[0] != "python"]
    assert [begin for begin in begins if not begin.startswith(NEEDS_NOTHING)] == []


def test_marks__are_of_two_kinds():
    kinds = {block.mark.partition(":")[0] for block in BLOCKS if block.mark}
    assert kinds == {"needs data", "needs more"}


def test_marks__of_what_a_block_needs__stand_right_before_one():
    marks = [
        (page.name, following)
        for page in PAGES
        for following in re.findall(r"^ *<!-- needs .*?-->\n(.*)$", page.read_text(), re.MULTILINE)
    ]
    assert len(marks) > 10
    assert [mark for mark in marks if not mark[1].lstrip().startswith("```")] == []
