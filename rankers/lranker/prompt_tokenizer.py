"""PromptTokenizer: tokenizes the texts of queries and candidates for prompts."""

from collections.abc import Sequence
from typing import Any

from rankers.lranker.prompt import QUERY, Prompt
from ranking.texts import check_texts
from registry import ConfigError


class PromptTokenizer:
    """Tokenizes texts, and cuts off the ends of texts whose prompts would be too long.

    Args:
        tokenizer: The backbone's tokenizer.
        template: The template of the queries' prompts.
        placed: Whether these prompts have a placeholder.
        max_length: The longest prompt, in tokens.
        num_prefix: How many of these tokens a prefix takes.

    Raises:
        ConfigError: If a prompt has no room for a query, or the tokenizer cannot be used with the template.
    """

    def __init__(self, tokenizer: Any, template: str, *, placed: bool, max_length: int, num_prefix: int) -> None:
        self.prompt = Prompt.of(template, tokenizer, placed=placed)
        self.bare = Prompt.of(QUERY, tokenizer, placed=False)
        self.num_cut = 0
        self._tokenizer, self._max_length = tokenizer, max_length
        taken = self.prompt.num_tokens + num_prefix
        self._room = max_length - taken
        if self._room < 1:
            problem = f"{max_length} leaves no place for a query: the prompt alone has {taken}."
            raise ConfigError("ranker.max_length", problem)

    def queries(self, texts: Sequence[str]) -> list[list[int]]:
        """The queries' own tokens, without the rest of the prompt.

        Raises:
            ValueError: If a text has no tokens.
        """
        check_texts("texts", texts)
        return self._cut([self.prompt.space + text for text in texts], self._room)

    def candidates(self, texts: Sequence[str]) -> list[list[int]]:
        """The candidates' own tokens; candidates have no template.

        Raises:
            ValueError: If a text has no tokens.
        """
        check_texts("texts", texts)
        return self._cut(list(texts), self._max_length - self.bare.num_tokens)

    def _cut(self, texts: list[str], room: int) -> list[list[int]]:
        tokens = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        for place, (text, ids) in enumerate(zip(texts, tokens, strict=True)):
            if not ids or not text.strip():
                raise ValueError(f"text {place} of {len(texts)} has no tokens: {text.strip()[:80]!r}")
        self.num_cut += sum(len(ids) > room for ids in tokens)
        return [ids[:room] for ids in tokens]
