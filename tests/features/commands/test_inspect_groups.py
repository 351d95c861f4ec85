"""What a store or a pool holds is printed in full, at any width; only a terminal's lines of text are cut."""

import io

import pytest
from rich.console import Console

from features.commands.inspect_groups import print_facts, print_line

FACTS = {
    "queries": "123,456,789",
    "splits": "train 100,000,000, val 11,728,395, test 11,728,394",
    "source": "/a/folder/whose/name/is/as/long/as/a/line/of/a/terminal/and/longer/than/that/0123456789.jsonl",
}


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_no_fact_is_cut(width: int, terminal: bool) -> None:
    file = io.StringIO()
    print_facts(Console(file=file, width=width, force_terminal=terminal, color_system=None), "A store", FACTS)
    shown = file.getvalue()
    assert "…" not in shown and "..." not in shown
    assert all(value.replace(" ", "") in "".join(shown.split()) for value in FACTS.values())
    for number in ("123,456,789", "100,000,000,", "11,728,395,", "11,728,394"):
        assert number in shown
    if width >= 40:
        assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("text", ["a text of many words " * 9, "日本語の長い文章です" * 9])
@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_a_label_and_an_id_are_whole_and_a_text_is_cut_to_the_line_of_a_terminal(width: int, text: str) -> None:
    for terminal in (True, False):
        file = io.StringIO()
        print_line(Console(file=file, width=width, force_terminal=terminal, color_system=None), "0.25  an_id  ", text)
        shown = file.getvalue()
        assert shown.startswith(f"0.25  an_id  {text[:5]}") and shown.count("\n") == 1
        assert (shown.rstrip("\n") == f"0.25  an_id  {text.strip()}") != terminal
        assert shown.endswith("...\n") == terminal
