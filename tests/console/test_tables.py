"""Tables are printed in full: at any width, with or without a terminal."""

import io

import pytest
from rich.console import Console

from console.tables import new_table, print_table

WIDTHS = [1, 20, 40, 60, 80, 120]
NAMES = ["first", "überraschend_lang_日本語", "list_ranker", "a name of many words that can be wrapped"]


def printed(width: int, metrics: list[str], encoding: str = "utf-8", terminal: bool = False) -> str:
    table = new_table("", *metrics, title="test: 24 queries, 95 % bootstrap intervals")
    for place, name in enumerate(NAMES):
        cells = [f"0.{place}{column:02}\n[dim]0.1{column:02}..0.9{column:02}[/]" for column in range(len(metrics))]
        table.add_row(name, *cells)
    content = io.BytesIO()
    file = io.TextIOWrapper(content, encoding=encoding, errors="backslashreplace")
    print_table(Console(file=file, width=width, force_terminal=terminal, color_system=None), table)
    file.flush()
    return content.getvalue().decode(encoding)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [1, 4, 40])
@pytest.mark.parametrize("terminal", [True, False])
def test_every_number_is_printed_in_full(width: int, count: int, terminal: bool) -> None:
    text = printed(width, [f"recall@{place}" for place in range(count)], terminal=terminal)
    assert "…" not in text and text.endswith("\n")
    for place in range(count):
        assert text.count(f"0.1{place:02}..0.9{place:02}") == len(NAMES)
        assert all(f"0.{row}{place:02}" in text for row in range(len(NAMES)))
    if width >= 40:
        # The title is a sentence, which the terminal breaks.
        assert max(map(len, text.splitlines()[1:])) <= width


def test_columns_that_do_not_fit_are_printed_below_with_row_names_repeated() -> None:
    text = printed(60, [f"recall@{place}" for place in range(4)])
    first, second = text.split("\n\n")
    assert "recall@0" in first and "recall@3" in second
    assert all(part.count("list_ranker") == 1 for part in (first, second))


@pytest.mark.parametrize("width", [20, 80])
def test_a_metric_with_a_name_longer_than_a_line_is_named_in_full(width: int) -> None:
    name = "the_share_of_queries_whose_first_ten_candidates_are_all_relevant_to_the_query@10"
    text = printed(width, [name, "mrr"])
    assert name in text and text.count("0.100..0.900") == len(NAMES)


def test_an_encoding_without_lines_or_letters_is_enough() -> None:
    for width in WIDTHS:
        text = printed(width, ["hit@1", "mrr"], encoding="ascii")
        assert "0.100..0.900" in text and "\\u65e5" in text


def test_brackets_in_the_name_of_a_metric_are_no_markup() -> None:
    for width in WIDTHS:
        assert "recall[5]" in printed(width, ["recall[5]"])
