"""Prompt: the text around a query, as token ids, with a place for what is known of the candidates."""

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
    """Prompts side by side, filled up on the right.

    Args:
        ids: Of the tokens; 0 at the placeholder, and where the mask is False.
        mask: True where there is a token.
        query: True where it is one of the query's own.
    """

    ids: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    query: Bool[Tensor, "B L"]

    def pooled(self, pooling: Pooling) -> Bool[Tensor, "B L"]:
        """Which tokens' states make the embedding (LRanker, Eq. 7, for `query_eos`)."""
        if pooling == "mean":
            return self.mask
        last = self.mask & ~torch.nn.functional.pad(self.mask[:, 1:], (0, 1))
        return last if pooling == "last" else last | self.query


@dataclass(frozen=True)
class Prompt:
    """What stands around every query: its own tokens go between `before` and `after`.

    The pieces of a template are tokenized one by one, so that a query has the same tokens in any prompt. White space
    in front of the query goes with it, since in many vocabularies a word and the space before it are one token.

    Args:
        before: Ids before the query, with what the tokenizer puts at the start of a text.
        after: Ids after it, with the token that ends a text.
        placeholder: Place of the placeholder in `before`, or in `after` if `shown_first` is False; None without one.
        shown_first: Whether the placeholder stands before the query.
        space: White space in front of the query.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    placeholder: int | None
    shown_first: bool
    space: str

    @classmethod
    def of(cls: type[P], template: str, tokenizer: Any, *, placed: bool) -> P:
        """The tokens of a template.

        Args:
            template: As `check_template` takes it.
            tokenizer: The backbone's.
            placed: Whether there is a placeholder; if not, the template's is dropped.

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
        """How many tokens every prompt has besides the query's."""
        return len(self.before) + len(self.after)

    def lay(self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"], after: tuple[int, ...] | None = None) -> Laid:
        """The prompts of B queries.

        Args:
            tokens: The queries' own, filled up on the right.
            lengths: How many tokens each query has.
            after: What to put after a query instead of `after`.
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
        """Where in each prompt the placeholder stands."""
        assert self.placeholder is not None
        if self.shown_first:
            return torch.full_like(lengths, self.placeholder)
        return lengths + len(self.before) + self.placeholder


def check_template(template: str, *, placed: bool) -> str:
    """The text of a template, with exactly one `{query}`, and one placeholder or, if not `placed`, none.

    Args:
        template: A name among `TEMPLATES`, or a text with `{query}` and `<|embedding|>`.
        placed: Whether there is something to put at the placeholder.

    Raises:
        ConfigError: If there is no such name, or a part is missing.
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
    """What a tokenizer puts at the start of a text, and what ends one: by itself, or as its end-of-sequence token.

    Raises:
        ConfigError: If nothing ends a text.
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
    """Token ids of a text with at most one placeholder, 0 there, and its place."""
    ids, place = [], None
    for number, part in enumerate(text.split(PLACEHOLDER)):
        if number:
            place = len(ids)
            ids.append(0)
        ids += tokenizer(part, add_special_tokens=False)["input_ids"] if part else []
    return ids, place
