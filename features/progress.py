"""Progress: a bar with rate and time left while there is long work to do, and one line when it is done."""

import time
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

P = TypeVar("P", bound="WorkProgress")
R = TypeVar("R", bound="ReadingProgress")

_SECONDS_BETWEEN_LINES = 60.0


class WorkProgress:
    """Shows how far some work has come; where there is no terminal, a line a minute and one at the end.

    Args:
        total: How many texts there are to work on.
        console: Where to print; stderr by default, as befits a bar.
        doing: What is done to them.
        done: The same when it is over.
        unit: What they are.
    """

    def __init__(
        self,
        total: int,
        console: Console | None = None,
        *,
        doing: str = "Encoding",
        done: str = "Encoded",
        unit: str = "texts",
    ) -> None:
        self.console, self._done, self._unit = console or Console(stderr=True), done, unit
        columns = (
            TextColumn(doing),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit + "{task.fields[rate]}"),
        )
        self._bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self._task = self._bar.add_task(doing, total=total, rate="")
        self._total, self._skipped = total, 0
        self.texts = self.tokens = self.cut = 0
        self.restart()

    def report(self, texts: int, tokens: int = 0, cut: int = 0) -> None:
        """Count one more batch."""
        self.texts, self.tokens, self.cut = self.texts + texts, self.tokens + tokens, self.cut + cut
        rate = f", {self._rate()}{self._time_left()}"
        self._bar.update(self._task, advance=texts, rate=rate)
        if self._bar.disable and (now := time.monotonic()) - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            self._print(f"{self._done} {self.texts + self._skipped:,} of {self._total:,} {self._unit}{rate}.")

    def skip(self, texts: int) -> None:
        """Count texts that need no encoding, such as those an earlier run has saved."""
        self._skipped += texts
        self._bar.update(self._task, advance=texts)

    def restart(self) -> None:
        """Measure from now on, as after a model was loaded."""
        self._start = self._said = time.monotonic()

    def __enter__(self: P) -> P:
        self.restart()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self.texts:
            seconds = time.monotonic() - self._start
            cut = f"; {self.cut:,} were too long and were cut" if self.cut else ""
            tokens = f", {self.tokens:,} tokens," if self.tokens else ""
            self._print(f"{self._done} {self.texts:,} {self._unit}{tokens} in {seconds:,.0f} s ({self._rate()}){cut}.")

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        if self.tokens:
            return f"{self.tokens / seconds:,.0f} tokens/s"
        return f"{self.texts / seconds:,.1f} {self._unit}/s"

    def _time_left(self) -> str:
        """Nothing before the first text is done, as after a start that did no more than skip."""
        if not self.texts:
            return ""
        left = max(self._total - self._skipped - self.texts, 0)
        seconds = round(left * (time.monotonic() - self._start) / self.texts)
        return f", {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


class ReadingProgress:
    """Shows how much of a source was read; where there is no terminal, nothing.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("Reading"), BarColumn(), TextColumn("{task.completed:,.0f} texts"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("reading", total=None)

    def report(self, texts: int) -> None:
        """Count texts that were read."""
        self._bar.update(self._task, advance=texts)

    def __enter__(self: R) -> R:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
