"""EncodingProgress: a bar with rate and time left while texts are encoded, and one line when it is done."""

import time
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

P = TypeVar("P", bound="EncodingProgress")


class EncodingProgress:
    """Shows how far an encoding has come; where there is no terminal, only its last line is printed.

    Args:
        total: How many texts there are to encode.
        console: Where to print; stderr by default, as befits a bar.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        columns = (TextColumn("Encoding"), BarColumn(), MofNCompleteColumn(), TextColumn("texts, {task.fields[rate]}"))
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=self.console, transient=True, disable=not self.console.is_terminal
        )
        self._task = self._bar.add_task("encoding", total=total, rate="")
        self.texts = self.tokens = self.cut = 0
        self._start = time.monotonic()

    def report(self, texts: int, tokens: int, cut: int) -> None:
        """Count one more batch."""
        self.texts, self.tokens, self.cut = self.texts + texts, self.tokens + tokens, self.cut + cut
        self._bar.update(self._task, advance=texts, rate=self._rate())

    def skip(self, texts: int) -> None:
        """Count texts that need no encoding, such as those an earlier run has saved."""
        self._bar.update(self._task, advance=texts)

    def __enter__(self: P) -> P:
        self._start = time.monotonic()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self.texts:
            seconds = time.monotonic() - self._start
            cut = f"; {self.cut:,} were too long and were cut" if self.cut else ""
            line = f"Encoded {self.texts:,} texts, {self.tokens:,} tokens, in {seconds:,.0f} s ({self._rate()}){cut}."
            self.console.print(line, highlight=False, soft_wrap=True)

    def _rate(self) -> str:
        return f"{self.tokens / max(time.monotonic() - self._start, 1e-9):,.0f} tokens/s"
