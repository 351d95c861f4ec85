"""PairTemplate: turns a query and a candidate into the tokens of one text."""

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

from language_models.chat_template import ChatTemplate
from language_models.conversation import Conversation
from registry import ConfigError

PAIR = "pair"
"""The tokenizer's own form of two texts, such as [CLS] query [SEP] candidate [SEP]."""

TEXTS = {"plain": "{query}{candidate}", "rankllama": "query: {query} document: {candidate}"}
"""Named templates as texts (RankLLaMA, Ma et al. 2023, arXiv 2310.08319); an end-of-text token follows."""

CHAT = "chat"
"""The tokenizer's own chat template."""

_NAMES = (CHAT, PAIR, *TEXTS)
_QUERY, _CANDIDATE = "{query}", "{candidate}"


def check_pair_template(template: str) -> None:
    """Refuse a template that cannot work with any tokenizer.

    Raises:
        ConfigError: If it is neither a known name, nor a Jinja template, nor a text with `{query}` and `{candidate}`.
    """
    if template in _NAMES or _is_jinja(template):
        return
    if _QUERY in template and _CANDIDATE in template.partition(_QUERY)[2]:
        return
    cure = f"a text with {_QUERY} and after it {_CANDIDATE}, a Jinja template of messages, or a known name"
    problem = "is no template of a query and a candidate."
    raise ConfigError("ranker.template", problem, given=template, known=_NAMES, cure=cure)


class PairTemplate:
    """Tokens of queries and candidates; prompt and response of a Conversation together are the text of a pair.

    The end of a text is the same in training and in scoring, whatever is cut.

    Args:
        tokenizer: A tokenizer of the transformers library.
        template: `pair`, `chat`, a name of `TEXTS`, a text with `{query}` and `{candidate}`, or a Jinja template of
            messages.
        max_length: The most tokens of a text; the ends of longer candidates are cut off.
        max_query_length: The most tokens of a query; the ends of longer queries are cut off.
        ends: Tokens that end a text, according to the model's files.

    Raises:
        ConfigError: If the template does not fit the tokenizer.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str,
        *,
        max_length: int,
        max_query_length: int,
        ends: Collection[int] = (),
    ) -> None:
        check_pair_template(template)
        if template == CHAT and not tokenizer.chat_template:
            cure = "pair for a bidirectional model, plain for a causal one, or a text with {query} and {candidate}"
            raise ConfigError("ranker.template", "the model has no chat template.", given=template, cure=cure)
        self._tokenizer, self._template = tokenizer, template
        self._max_length, self._max_query_length = max_length, max_query_length
        self._chat = ChatTemplate(tokenizer, template, ends=ends, path="ranker.template")
        self.num_cut = 0

    def check_room(self) -> None:
        """Check that the longest query leaves room for a candidate.

        Raises:
            ConfigError: If it does not.
        """
        around = len(self._prompt("query")) - len(self._tokens(["query"])[0])
        self._check_room(around + self._max_query_length)

    def conversations(self, queries: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[Conversation]:
        """The tokens of each query with each of its candidates.

        Args:
            queries: One text for each list of candidates.
            candidates: The candidates of each query.

        Raises:
            ConfigError: If the template leaves no room for a candidate.
        """
        prompts = [self._prompt(query) for query in self._cut_queries(queries)]
        flat = self._tokens([self._before_candidate + text for texts in candidates for text in texts])
        end, place, found = self._end, 0, []
        for prompt, texts in zip(prompts, candidates, strict=True):
            room = self._check_room(len(prompt))
            responses = flat[place : place + len(texts)]
            self.num_cut += sum(len(response) > room for response in responses)
            found.append(Conversation(prompt, [[*response[:room], *end] for response in responses]))
            place += len(texts)
        return found

    @property
    def typed(self) -> bool:
        """Whether the tokenizer tells the model which tokens belong to the query and which to the candidate."""
        return self._template == PAIR and "token_type_ids" in self._tokenizer.model_input_names

    def _check_room(self, prompt: int) -> int:
        """How many tokens may follow a prompt of this many tokens: the template's words, then the candidate."""
        room, words = self._max_length - prompt - len(self._end), len(self._tokens([self._before_candidate])[0])
        if room <= words:
            before = f"{prompt + words} tokens of template and query"
            problem = f"{self._max_length} tokens leave no room for a candidate after {before}."
            cure = "a larger ranker.max_length, or a smaller ranker.max_query_length"
            raise ConfigError("ranker.max_length", problem, cure=cure)
        return room

    def _cut_queries(self, queries: Sequence[str]) -> list[str]:
        found = list(queries)
        for place, tokens in enumerate(self._tokens(found)):
            if len(tokens) > self._max_query_length:
                found[place] = self._cut(tokens)
                self.num_cut += 1
        return found

    def _cut(self, tokens: list[int]) -> str:
        """The longest beginning that still has at most `max_query_length` tokens when it is read as a text again."""
        for length in range(self._max_query_length, 0, -1):
            text = self._tokenizer.decode(tokens[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            if len(self._tokens([text])[0]) <= self._max_query_length:
                return text
        return ""

    def _prompt(self, query: str) -> list[int]:
        if self._template == PAIR:
            start, middle, _ = self._around_pair
            return [*start, *self._tokens([query])[0], *middle]
        if self._text is not None:
            start, _ = self._around_text
            tokens = self._tokens([self._text.partition(_QUERY)[0] + query])[0]
            # A template may begin with the special token itself.
            return tokens if start and tokens[: len(start)] == start else [*start, *tokens]
        return self._chat.prompt([{"role": "user", "content": query}])

    @cached_property
    def _end(self) -> list[int]:
        """The tokens after the candidate."""
        if self._template == PAIR:
            return self._around_pair[2]
        if self._text is None:
            return [] if self._chat.turn_end is None else [self._chat.turn_end]
        text, end = self._text.rpartition(_CANDIDATE)[2], self._around_text[1]
        tokens = self._tokens([self._continued(text)])[0] if text else []
        return tokens if tokens[-len(end) :] == end else [*tokens, *end]

    @cached_property
    def _before_candidate(self) -> str:
        """What the template puts before the candidate, after the query."""
        if self._text is None:
            return ""
        return self._continued(self._text.partition(_QUERY)[2].rpartition(_CANDIDATE)[0])

    def _continued(self, text: str) -> str:
        """What the tokenizer is given where a text goes on: some tokenizers put a space before every text."""
        return text.removeprefix(" ") if self._tokenizer.tokenize("a")[:1] == ["▁a"] else text

    @property
    def _text(self) -> str | None:
        """The template as a text; None for pairs and messages."""
        text = TEXTS.get(self._template, self._template)
        return text if _QUERY in text and not _is_jinja(text) else None

    @cached_property
    def _around_pair(self) -> tuple[list[int], list[int], list[int]]:
        """The special tokens before, between and after two texts."""
        encoded = self._tokenizer("a", "b")
        ids, of = encoded["input_ids"], encoded.sequence_ids(0)
        first, second = of.index(0), of.index(1)
        middle = [token for token, each in zip(ids[first:second], of[first:second], strict=True) if each is None]
        if not middle:
            problem = "the tokenizer puts nothing between two texts."
            known = [name for name in _NAMES if name != PAIR]
            raise ConfigError("ranker.template", problem, given=PAIR, known=known, cure="another template")
        last = len(of) - 1 - of[::-1].index(1)
        return ids[:first], middle, ids[last + 1 :]

    @cached_property
    def _around_text(self) -> tuple[list[int], list[int]]:
        """The special tokens before a text, and those after it: at least one that ends it."""
        encoded = self._tokenizer("a")
        ids, of = encoded["input_ids"], encoded.sequence_ids(0)
        first, last = of.index(0), len(of) - 1 - of[::-1].index(0)
        after = ids[last + 1 :] or [self._tokenizer.eos_token_id]
        if after == [None]:
            problem = "the tokenizer has no token that ends a text, which the score is read from."
            raise ConfigError("ranker.template", problem, cure="another backbone, or the template pair")
        return ids[:first], after

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        return self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]


def _is_jinja(template: str) -> bool:
    return "{{" in template or "{%" in template
