"""Streams: stdout and stderr of a command, which neither a reader that left nor a narrow encoding breaks."""

import io
import os
import sys
from typing import TextIO


def prepare_streams() -> None:
    """Let the process print whatever it has to say: called once, where a command starts.

    What the encoding lacks is printed as an escape. A closed stream, or a pipe whose reader has left, as `| head` does,
    takes everything and keeps nothing: a run must not be lost for a line that nobody reads.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next file that is opened gets this number, and the errors of C libraries are written to it.
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.__stdout__ = _lasting(sys.stdout, 1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _lasting(sys.stderr, 2)  # type: ignore[misc]


def _lasting(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:
        return open(number, "w", encoding="utf-8", closefd=False)
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    encoding, line_buffering = stream.encoding, stream.line_buffering or number == 2
    return _Lasting(stream.detach(), encoding, "backslashreplace", line_buffering=line_buffering)


class _Lasting(io.TextIOWrapper):
    """Text that goes nowhere once its reader has left."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._go_nowhere()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._go_nowhere()

    def _go_nowhere(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
