"""Prompt: what is sampled from, Drawing: how its responses are drawn, and StopTexts: the strings that end them."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from language_models.sampling.token_choice import TokenChoice

# The most bytes of a character in UTF-8, and what decoders return for an incomplete character.
_MOST_BYTES, _BROKEN = 4, "\N{REPLACEMENT CHARACTER}"


class Drawing(NamedTuple):
    """How the responses to a prompt are drawn, and when they end.

    Args:
        choice: How each token is chosen.
        end_tokens: Tokens that end a response.
        ends_text: Returns whether tokens end a response in another way, such as by a stop string.
        max_new_tokens: Longest response in tokens, including the end token.
        seed: Seed of all random numbers.
    """

    choice: TokenChoice
    end_tokens: Collection[int]
    ends_text: Callable[[Sequence[int]], bool] | None = None
    max_new_tokens: int = 1024
    seed: int = 0


class Prompt(NamedTuple):
    """A prompt.

    Args:
        id: What its random numbers depend on, beside the seed.
        tokens: Its tokens.
        drawing: How its responses are drawn; None for the sampler's own way.
    """

    id: str
    tokens: Sequence[int]
    drawing: Drawing | None = None


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
