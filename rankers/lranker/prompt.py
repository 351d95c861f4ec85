"""Prompt: the text around a query, as token ids, with a placeholder for the candidates."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from registry import ConfigError

QUERY, PLACEHOLDER = "{query}", "<|embedding|>"

_SAYING = f"{PLACEHOLDER} Based on the global context information"
TEMPLATES = {
    "recommendation": "Task: Recommendation\nQuery: {query}\n"
    f"{_SAYING} (candidate items) and the query above, recommend the most relevant item.",
    "routing": "Task: Routing\nQuery: {query}\n"
    f"{_SAYING} (candidate LLMs/agents) and the query above, select the most suitable route or model.",
    "passage_ranking": "Task: Passage Ranking\nQuery: {query}\n"
    f"{_SAYING} (candidate passages) and the query above, identify the most relevant passage.",
    "product_search": "Task: Product Searching\nQuery: {query}\n"
    f"{_SAYING} (candidate products) and the query above, return the product that best matches the search intent.",
    "context_first": f"Candidates: {PLACEHOLDER}\nQuery: {QUERY}",
}
"""Templates by name: those of LRanker's appendix A, and one that shows every token of the query the candidates.

The paper prints a template as three paragraphs; here it is three lines.
"""

Pooling = Literal["query_eos", "mean", "last"]

P = TypeVar("P", bound="Prompt")


class Laid(NamedTuple):
    """A batch of prompts, padded on the right.

    Args:
        ids: The token ids; 0 at the placeholder and where the mask is False.
        mask: True for tokens, False for padding.
        query: True for the query's own tokens.
    """

    ids: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    query: Bool[Tensor, "B L"]

    def pooled(self, pooling: Pooling) -> Bool[Tensor, "B L"]:
        """The tokens whose states are averaged (LRanker, Eq. 7, for `query_eos`)."""
        if pooling == "mean":
            return self.mask
        last = self.mask & ~torch.nn.functional.pad(self.mask[:, 1:], (0, 1))
        return last if pooling == "last" else last | self.query


@dataclass(frozen=True)
class Prompt:
    """The tokens around every query: the query's own tokens go between `before` and `after`.

    The pieces of a template are tokenized separately, so a query has the same tokens in every prompt. White space
    before the query is tokenized with it, because in many vocabularies a word and the space before it are one token.

    Args:
        before: Token ids before the query, including those the tokenizer adds at the start of a text.
        after: Token ids after the query, including the token that ends a text.
        placeholder: Index of the placeholder in `before`, or in `after` if `shown_first` is False; None without one.
        shown_first: Whether the placeholder is before the query.
        space: White space before the query.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    placeholder: int | None
    shown_first: bool
    space: str

    @classmethod
    def of(cls: type[P], template: str, tokenizer: Any, *, placed: bool) -> P:
        """Tokenize a template.

        Args:
            template: In the form that `check_template` accepts.
            tokenizer: The backbone's tokenizer.
            placed: Whether to keep the template's placeholder; if not, it is removed.

        Raises:
            ConfigError: If the tokenizer has no token that ends a text.
        """
        start, end = special_tokens(tokenizer)
        head, tail = check_template(template, placed=placed).split(QUERY)
        space = head[len(head.rstrip()) :]
        before, place_before = _piece(head.rstrip(), tokenizer)
        after, place_after = _piece(tail, tokenizer)
        first = place_before is not None
        placeholder = place_before + len(start) if place_before is not None else place_after
        return cls((*start, *before), (*after, *end), placeholder, first, space)

    @property
    def num_tokens(self) -> int:
        """The number of tokens of a prompt besides the query's own."""
        return len(self.before) + len(self.after)

    def lay(self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"], after: tuple[int, ...] | None = None) -> Laid:
        """The prompts of B queries.

        Args:
            tokens: The queries' own tokens, padded on the right.
            lengths: How many tokens each query has.
            after: Token ids to put after a query instead of `self.after`; None for `self.after`.
        """
        after = self.after if after is None else after
        start, end = len(self.before), len(self.before) + lengths.unsqueeze(1)
        place = torch.arange(start + tokens.shape[1] + len(after), device=tokens.device).expand(len(tokens), -1)
        ids = torch.zeros_like(place)
        ids[:, :start] = torch.tensor(self.before, dtype=ids.dtype, device=ids.device)
        query = (place >= start) & (place < end)
        ids[:, start : start + tokens.shape[1]] = tokens
        ids.masked_fill_(place >= end, 0)
        ending = torch.tensor([*after, 0], dtype=ids.dtype, device=ids.device)
        ids += ending[(place - end).clamp(min=-1, max=len(after))]
        return Laid(ids, place < end + len(after), query)

    def places(self, lengths: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The index of the placeholder in each prompt."""
        assert self.placeholder is not None
        if self.shown_first:
            return torch.full_like(lengths, self.placeholder)
        return lengths + len(self.before) + self.placeholder


def check_template(template: str, *, placed: bool) -> str:
    """The text of a template, with exactly one `{query}` and, if `placed`, exactly one placeholder.

    Args:
        template: A name among `TEMPLATES`, or a text with `{query}` and `<|embedding|>`.
        placed: Whether the prompt has an embedding to put at the placeholder.

    Raises:
        ConfigError: If no template has this name, or a part of the text is missing.
    """
    text = TEMPLATES.get(template, template)
    if text.count(QUERY) != 1:
        problem = f"{template!r} is no template's name, and as a text it has {text.count(QUERY)} places for the query."
        cure = f"a text with {QUERY} once"
        raise ConfigError("ranker.template", problem, given=template, known=TEMPLATES, cure=cure)
    if text.count(PLACEHOLDER) > 1 or (placed and PLACEHOLDER not in text):
        problem = f"has {text.count(PLACEHOLDER)} places for what is known of the candidates: {template!r}."
        cure = f"put {PLACEHOLDER} into it once, before or after {QUERY}; or ranker.aggregator=null to do without"
        raise ConfigError("ranker.template", problem, cure=cure)
    return text if placed else text.replace(PLACEHOLDER, "")


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that start a text, and those that end it: added by the tokenizer, or its end-of-sequence token.

    Raises:
        ConfigError: If the tokenizer has no token that ends a text.
    """
    whole, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    place = next(place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
    end = whole[place + len(bare) :]
    if not end:
        eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if eos is None:
            cure = "a model whose tokenizer has an eos_token"
            raise ConfigError("ranker.backbone.model", "its tokenizer has no token that ends a text.", cure=cure)
        end = [eos]
    return whole[:place], end


def _piece(text: str, tokenizer: Any) -> tuple[list[int], int | None]:
    """The token ids of a text with at most one placeholder, and its index; its own id is 0."""
    ids, place = [], None
    for number, part in enumerate(text.split(PLACEHOLDER)):
        if number:
            place = len(ids)
            ids.append(0)
        ids += tokenizer(part, add_special_tokens=False)["input_ids"] if part else []
    return ids, place
