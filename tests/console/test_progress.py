"""Progress is a bar on a terminal, lines now and then in a log, and one line at the end."""

import io

import pytest
from rich.console import Console

from console.progress import Pace, ReadingProgress, WorkProgress


class Clock:
    """A time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


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


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"FORCE_COLOR": "1"}])
def test_where_a_bar_cannot_be_drawn_over_itself_there_are_lines(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    output, clock = io.StringIO(), Clock()
    with WorkProgress(10, Console(file=output, force_terminal=True, no_color=True), clock=clock) as progress:
        clock.now += 10
        progress.report(5)
    assert output.getvalue().startswith("Encoded 5 of 10 texts, 0.5 texts/s, 0:00:10 left.\n")


def test_nothing_is_said_of_nothing() -> None:
    output = io.StringIO()
    with WorkProgress(0, Console(file=output)):
        pass
    assert output.getvalue() == ""


def test_brief_work_ends_without_a_word_unless_it_took_long() -> None:
    for seconds, lines in ((4, 0), (6, 2)):
        output, clock = io.StringIO(), Clock()
        with WorkProgress(2, Console(file=output), brief=True, clock=clock) as progress:
            clock.now += seconds
            progress.report(1)
        assert output.getvalue().count("\n") == lines


def test_silent_work_says_nothing() -> None:
    output, clock = io.StringIO(), Clock()
    with WorkProgress(2, Console(file=output), silent=True, clock=clock) as progress:
        clock.now += 100
        progress.report(1)
    assert output.getvalue() == ""


def test_a_log_is_due_after_five_seconds_and_then_every_thirty() -> None:
    clock = Clock()
    pace = Pace(clock)
    due = []
    for second in range(1, 101):
        clock.now = 1000 + second
        if pace.due():
            due.append(second)
    assert due == [5, 35, 65, 95]


def test_where_there_is_no_terminal_a_line_now_and_then_tells_the_time_left() -> None:
    output, clock = io.StringIO(), Clock()
    with WorkProgress(10_000, Console(file=output, width=20), clock=clock) as encoding:
        encoding.skip(4000)
        for _ in range(16):
            clock.now += 10
            encoding.report(25, 500, 0)
    lines = output.getvalue().splitlines()
    # 25 texts in 10 s: of 6,000, 25 are done after 10 s, and 100 after 40 s.
    assert lines[:2] == [
        "Encoded 4,025 of 10,000 texts, 50 tokens/s, 0:39:50 left.",
        "Encoded 4,100 of 10,000 texts, 50 tokens/s, 0:39:20 left.",
    ]
    assert lines[-1:] == ["Encoded 400 texts, 8,000 tokens, in 160 s (50 tokens/s)."]


def test_no_time_left_is_told_before_anything_is_done() -> None:
    output, clock = io.StringIO(), Clock()
    with WorkProgress(10_000, Console(file=output), done="Read", unit="responses", clock=clock) as reading:
        reading.skip(2000)
        clock.now += 80
        reading.report(0, 4000)
    assert output.getvalue().splitlines() == ["Read 2,000 of 10,000 responses, 50 tokens/s."]


def test_reading_is_a_bar_on_a_terminal_and_lines_elsewhere() -> None:
    for terminal in (True, False):
        output, clock = io.StringIO(), Clock()
        with ReadingProgress(Console(file=output, force_terminal=terminal, width=200), clock) as reading:
            reading.report(1000)
            clock.now += 10
            reading.report(234)
        assert ("━" in output.getvalue()) == terminal
        assert (output.getvalue() == "Read 1,234 texts, 123 texts/s.\n") != terminal


def test_what_is_loaded_first_does_not_count() -> None:
    output, clock = io.StringIO(), Clock()
    with WorkProgress(10, Console(file=output), clock=clock) as encoding:
        clock.now += 500
        encoding.restart()
        clock.now += 5
        encoding.report(10, 100)
    assert output.getvalue().splitlines()[-1] == "Encoded 10 texts, 100 tokens, in 5 s (20 tokens/s)."
