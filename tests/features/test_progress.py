"""Progress ends with one line that says what was done, and at what rate."""

import io

from rich.console import Console

from features.progress import EncodingProgress


def shown(terminal: bool) -> str:
    output = io.StringIO()
    with EncodingProgress(10, Console(file=output, force_terminal=terminal, width=200)) as progress:
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
    with EncodingProgress(0, Console(file=output)):
        pass
    assert output.getvalue() == ""
