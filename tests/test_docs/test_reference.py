"""The page that is made of the commands' own help."""

from s4m_stages.reference import PAGE, reference


def test_reference__of_all_commands__is_up_to_date():
    assert PAGE.read_text() == reference(), "docs/cli.md is out of date: make docs"
