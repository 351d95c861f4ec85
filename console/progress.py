"""Progress: a bar with rate and time left while there is long work to do; without a terminal a line now and then."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from rich import get_console
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from console.decimals import short

P = TypeVar("P", bound="WorkProgress")
R = TypeVar("R", bound="ReadingProgress")
Clock = Callable[[], float]
Report = Callable[[int, int], None]
"""Called after each step with the number of results it finished and the number of tokens it read."""

_FIRST_LINE_AFTER, _SECONDS_BETWEEN_LINES = 5.0, 30.0


def is_first_process() -> bool:
    """Whether no other process of the same work says the same, or shows its progress."""
    # Only code that has loaded torch can have joined other processes; loading it here takes seconds.
    distributed = sys.modules.get("torch.distributed")
    joined = distributed is not None and distributed.is_initialized()
    rank = distributed.get_rank() if distributed is not None and joined else os.environ.get("LOCAL_RANK", "0")
    return multiprocessing.parent_process() is None and int(rank) == 0


class Pace:
    """When a log is due for a line: after a few seconds, then about every half minute.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self.restart()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._clock() - self._start

    @property
    def told(self) -> bool:
        """Whether a line was due since the start."""
        return self._next > _FIRST_LINE_AFTER

    def restart(self) -> None:
        """Measure from now on."""
        self._start, self._next = self._clock(), _FIRST_LINE_AFTER

    def due(self) -> bool:
        """Whether it is time for a line; if so, the next one is due later."""
        if (now := self.seconds) < self._next:
            return False
        self._next = now + _SECONDS_BETWEEN_LINES
        return True

    def rate(self, done: float | int) -> str:
        """How much is done a second, in a few digits."""
        rate = done / max(self.seconds, 1e-9)
        return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}" if rate >= 1 else short(rate, 2)

    def left(self, done: float | int, total: float | int) -> str:
        """The time that is left if it goes on like this; nothing while nothing is done or the end is not known.

        Args:
            done: Since the start.
            total: What was to be done since then.
        """
        if done <= 0 or total == float("inf"):
            return ""
        seconds = round(max(total - done, 0) * self.seconds / done)
        return f", {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


class WorkProgress:
    """Shows how far some work has come: a bar on a terminal, else a line now and then; and one line at the end.

    Args:
        total: How much there is to do.
        console: Where to print; stderr by default, as befits a bar.
        doing: What is done.
        done: The same when it is over.
        unit: What is counted.
        brief: Whether work that is over before a line was due ends without one.
        silent: Whether to show nothing at all.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        total: int,
        console: Console | None = None,
        *,
        doing: str = "Encoding",
        done: str = "Encoded",
        unit: str = "texts",
        brief: bool = False,
        silent: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        self.console, self._done, self._unit = console or bar_console(), done, unit
        columns = (
            TextColumn(doing),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit + "{task.fields[rate]}"),
        )
        self._silent = silent or not is_first_process()
        self._as_bar = can_redraw(self.console) and not self._silent
        self._bar = Progress(*columns, console=self.console, transient=True, disable=not self._as_bar)
        self._task = self._bar.add_task(doing, total=total, rate="")
        self._total, self._skipped, self._brief = total, 0, brief
        self.count = self.tokens = self.cut = 0
        self._pace = Pace(clock)

    def report(self, count: int, tokens: int = 0, cut: int = 0) -> None:
        """Count what one more batch has done."""
        self.count, self.tokens, self.cut = self.count + count, self.tokens + tokens, self.cut + cut
        rate = f", {self._rate()}{self._pace.left(self.count, self._total - self._skipped)}"
        self._bar.update(self._task, advance=count, rate=rate)
        finished = self.count + self._skipped >= self._total  # its last line follows
        if self._pace.due() and not (self._as_bar or finished):
            self.say(f"{self._done} {self.count + self._skipped:,} of {self._total:,} {self._unit}{rate}.")

    def skip(self, count: int) -> None:
        """Count what needs no work, such as what an earlier run has saved."""
        self._skipped += count
        self._bar.update(self._task, advance=count)

    def restart(self) -> None:
        """Measure from now on, as after a model was loaded."""
        self._pace.restart()

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if not self._silent:
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def __enter__(self: P) -> P:
        self.restart()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self.count and (self._pace.told or not self._brief):
            cut = f"; {self.cut:,} were too long and were cut" if self.cut else ""
            tokens = f", {self.tokens:,} tokens," if self.tokens else ""
            seconds = f"{self._pace.seconds:,.0f} s"
            self.say(f"{self._done} {self.count:,} {self._unit}{tokens} in {seconds} ({self._rate()}){cut}.")

    def _rate(self) -> str:
        if self.tokens:
            return f"{self._pace.rate(self.tokens)} tokens/s"
        return f"{self._pace.rate(self.count)} {self._unit}/s"


class ReadingProgress:
    """Shows how much of a source was read, whose end is not known: a bar on a terminal, else a line now and then.

    Args:
        console: Where to print.
        clock: Tells the time in seconds.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        columns = (TextColumn("Reading"), BarColumn(), TextColumn("{task.completed:,.0f} texts"), TimeElapsedColumn())
        self._console, self._as_bar, self._count, self._pace = console, can_redraw(console), 0, Pace(clock)
        self._bar = Progress(*columns, console=console, transient=True, disable=not self._as_bar)
        self._task = self._bar.add_task("reading", total=None)

    def report(self, texts: int) -> None:
        """Count texts that were read."""
        self._count += texts
        self._bar.update(self._task, advance=texts)
        if self._pace.due() and not self._as_bar:
            rate = self._pace.rate(self._count)
            self._console.print(f"Read {self._count:,} texts, {rate} texts/s.", highlight=False, soft_wrap=True)

    def __enter__(self: R) -> R:
        self._pace.restart()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def bar_console() -> Console:
    """Where bars go: stderr, and the console of other bars there, below which rich can show one more."""
    shared = get_console()
    return shared if shared.stderr else Console(stderr=True)


def can_redraw(console: Console) -> bool:
    """Whether a bar can be drawn over itself: on a terminal, unless it is a dumb one."""
    only_colors = "FORCE_COLOR" in os.environ and not console.file.isatty()
    return console.is_interactive and not only_colors
