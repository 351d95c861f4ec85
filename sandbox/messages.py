"""Messages: JSON values that the processes of the sandbox exchange, each preceded by its length."""

import json
import os
from typing import Any

_LENGTH = 4
_MOST_OF_AN_ERROR = 200


class Closed(Exception):
    """The other side closed the pipe before the end of a message."""


class Refused(BaseException):
    """There can be no verdict, with the reason; tests cannot catch it as an `Exception`."""


def write_message(file: int, value: Any) -> None:
    """Write a value; wait until the pipe has room for all of it."""
    text = json.dumps(value, separators=(",", ":")).encode()
    left = memoryview(len(text).to_bytes(_LENGTH, "big") + text)
    while left:
        left = left[os.write(file, left) :]


def read_message(file: int) -> Any:
    """Wait for a value and read it.

    Raises:
        Closed: If the pipe is closed before the value is complete.
    """
    return json.loads(_read(file, int.from_bytes(_read(file, _LENGTH), "big")))


class MessageBuffer:
    """Assembles a message from parts.

    Args:
        most: The largest size of a message in bytes.
    """

    def __init__(self, most: int) -> None:
        self._parts, self._most = bytearray(), most

    def add(self, part: bytes) -> None:
        """Add received bytes.

        Raises:
            ValueError: If the message is too long.
        """
        self._parts += part
        if len(self._parts) >= _LENGTH and self._length() > self._most:
            raise ValueError(f"a message of {self._length()} bytes")

    def take(self) -> Any:
        """Remove and return the value; None while its message is not complete.

        Raises:
            ValueError: If the message is not JSON.
            RecursionError: If the value is nested too deeply.
        """
        if len(self._parts) < _LENGTH or len(self._parts) < _LENGTH + self._length():
            return None
        end = _LENGTH + self._length()
        text = bytes(self._parts[_LENGTH:end])
        del self._parts[:end]
        return json.loads(text)

    def clear(self) -> None:
        """Discard all received bytes."""
        self._parts.clear()

    def _length(self) -> int:
        return int.from_bytes(self._parts[:_LENGTH], "big")


def message_of(error: BaseException) -> str:
    """The class and message of an exception in one line."""
    try:
        message = f"{type(error).__name__}: {error}".rstrip(": ")[:_MOST_OF_AN_ERROR]
        return message.encode(errors="backslashreplace").decode()
    except Exception:
        return type(error).__name__


def _read(file: int, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = os.read(file, count - len(parts))
        if not part:
            raise Closed
        parts += part
    return bytes(parts)
