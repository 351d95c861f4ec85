"""Prompt: what is sampled from, and StopTexts: the strings that end a response."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

# The most bytes of a character in UTF-8, and what decoders return for an incomplete character.
_MOST_BYTES, _BROKEN = 4, "\N{REPLACEMENT CHARACTER}"


class Prompt(NamedTuple):
    """The id of a prompt, which its random numbers depend on, and its tokens."""

    id: str
    tokens: Sequence[int]


class StopTexts:
    """Strings that end a response.

    Args:
        stop: The stop strings; none may be empty.
        text: Returns the text of tokens.
    """

    def __init__(self, stop: Sequence[str], text: Callable[[Sequence[int]], str]) -> None:
        if not all(stop):
            raise ValueError("an empty stop string would end every response")
        self._stop, self._text = stop, text
        # A token has at least one byte. One token more, because some decoders treat the first token differently.
        self._reach = max((len(each.encode()) for each in stop), default=0) + 1

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether tokens contain a stop string that ends in the last token."""
        for more in range(_MOST_BYTES if self._stop else 0):
            tail = self._text(tokens[-self._reach - more :])
            if self.cut(tail) != tail:
                return True
            # If a text starts inside a character, some decoders also drop what follows it: start earlier.
            if _BROKEN not in tail:
                return False
        return False

    def cut(self, text: str) -> str:
        """The text before the first stop string."""
        return text[: min((text.find(each) for each in self._stop if each in text), default=len(text))]
