"""Messages: JSON values between the processes of the sandbox, each after its length."""

import json
import os
from typing import Any

_LENGTH = 4


class Closed(Exception):
    """The other side has closed before the end of a message."""


def write_message(file: int, value: Any) -> None:
    """Write a value; waits until there is room for all of it."""
    text = json.dumps(value, separators=(",", ":")).encode()
    left = memoryview(len(text).to_bytes(_LENGTH, "big") + text)
    while left:
        left = left[os.write(file, left) :]


def read_message(file: int) -> Any:
    """Wait for a value, and read it.

    Raises:
        Closed: If there is none.
    """
    return json.loads(_read(file, int.from_bytes(_read(file, _LENGTH), "big")))


class MessageBuffer:
    """Puts a message together from parts.

    Args:
        most: Bytes that a message may have.
    """

    def __init__(self, most: int) -> None:
        self._parts, self._most = bytearray(), most

    def add(self, part: bytes) -> None:
        """Take what has come.

        Raises:
            ValueError: If the message is too long.
        """
        self._parts += part
        if len(self._parts) >= _LENGTH and self._length() > self._most:
            raise ValueError(f"a message of {self._length()} bytes")

    def take(self) -> Any:
        """The value, once; None as long as its message is not complete.

        Raises:
            ValueError: If it is no JSON.
            RecursionError: If it is too deep.
        """
        if len(self._parts) < _LENGTH or len(self._parts) < _LENGTH + self._length():
            return None
        end = _LENGTH + self._length()
        text = bytes(self._parts[_LENGTH:end])
        del self._parts[:end]
        return json.loads(text)

    def clear(self) -> None:
        """Forget what has come."""
        self._parts.clear()

    def _length(self) -> int:
        return int.from_bytes(self._parts[:_LENGTH], "big")


def _read(file: int, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = os.read(file, count - len(parts))
        if not part:
            raise Closed
        parts += part
    return bytes(parts)
