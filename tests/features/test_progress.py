"""Progress ends with one line that says what was done, and at what rate."""

import io

import pytest
from rich.console import Console

from features import progress
from features.progress import ReadingProgress, WorkProgress


def shown(terminal: bool) -> str:
    output = io.StringIO()
    with WorkProgress(10, Console(file=output, force_terminal=terminal, width=200)) as progress:
        progress.skip(4)
        progress.report(3, 100, 0)
        progress.report(3, 200, 2)
    return output.getvalue()


def test_without_a_terminal_only_the_last_line_is_printed() -> None:
    [line] = shown(terminal=False).splitlines()
    assert line.startswith("Encoded 6 texts, 300 tokens, in 0 s (")
    assert line.endswith("tokens/s); 2 were too long and were cut.")


def test_on_a_terminal_there_is_a_bar_too() -> None:
    assert "10/10" in shown(terminal=True)


def test_nothing_is_said_of_nothing() -> None:
    output = io.StringIO()
    with WorkProgress(0, Console(file=output)):
        pass
    assert output.getvalue() == ""


def test_where_there_is_no_terminal_a_line_now_and_then_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    output = io.StringIO()
    with WorkProgress(10_000, Console(file=output, width=200)) as encoding:
        encoding.skip(4000)
        for _ in range(4):
            now += 40
            encoding.report(100, 2000, 0)
    lines = output.getvalue().splitlines()
    # 100 texts in 40 s: of 6,000, 200 are done after 80 s, and 400 after 160 s.
    assert lines[:2] == [
        "Encoded 4,200 of 10,000 texts, 50 tokens/s, 0:38:40 left.",
        "Encoded 4,400 of 10,000 texts, 50 tokens/s, 0:37:20 left.",
    ]
    assert lines[2:] == ["Encoded 400 texts, 8,000 tokens, in 160 s (50 tokens/s)."]


def test_no_time_left_is_told_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    output = io.StringIO()
    with WorkProgress(10_000, Console(file=output, width=200), done="Read", unit="responses") as reading:
        reading.skip(2000)
        now += 80
        reading.report(0, 4000)
    assert output.getvalue().splitlines() == ["Read 2,000 of 10,000 responses, 50 tokens/s."]


def test_reading_is_shown_on_a_terminal_only() -> None:
    for terminal in (True, False):
        output = io.StringIO()
        with ReadingProgress(Console(file=output, force_terminal=terminal, width=200)) as reading:
            reading.report(1234)
        assert ("1,234 texts" in output.getvalue()) == terminal


def test_what_is_loaded_first_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    output = io.StringIO()
    with WorkProgress(10, Console(file=output, width=200)) as encoding:
        now += 500
        encoding.restart()
        now += 5
        encoding.report(10, 100)
    assert output.getvalue() == "Encoded 10 texts, 100 tokens, in 5 s (20 tokens/s).\n"
