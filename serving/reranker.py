"""Reranker: a trained ranker, with the model that makes its vectors if it needs any; ranks texts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from features.responses.generation import Generated
from features.responses.states import with_states
from features.texts.tasks import Response, Task
from language_models.chat_template import Message
from language_models.encoder import Encoder
from language_models.language_model import LanguageModel
from language_models.precision import device_named
from language_models.single_threads import in_single_threads
from rankers.base import Ranker
from rankers.checkpoint import load_ranker, save_pretrained
from rankers.prompted.prompted import Prompted
from rankers.text.text_ranker import TextRanker
from ranking.batch import FeatureBatch, TextBatch
from ranking.counts import check_count
from ranking.texts import check_texts
from registry import ConfigError
from serving.remembered_vectors import RememberedVectors

R = TypeVar("R", bound="Reranker")

Score = Callable[[Any], Float[Tensor, "B K"]]
"""What scores the candidates of a batch: a ranker, or one user's ranker."""


@dataclass(frozen=True)
class RankedDocument:
    """A ranked document.

    Args:
        index: The document's index in the given list, from 0.
        text: The document.
        score: Higher is better; comparable only within one query.
    """

    index: int
    text: str
    score: float


class Asked(NamedTuple):
    """A query and the documents to rank for it."""

    query: str | Sequence[Message]
    documents: Sequence[str]


class Reading(NamedTuple):
    """How many tokens are read, and how many texts are cut because they are too long."""

    num_tokens: int
    num_cut: int


class TooLongError(ValueError):
    """A text is too long for the model, which does not cut it."""


class Reranker:
    """Ranks documents for a query, or a language model's responses.

    Args:
        ranker: A trained ranker of features, or one that reads texts itself, such as a reward model.
        encoder: The model that made the features of its training: a text encoder, or the language model whose hidden
            states are the features. None for a ranker that reads texts itself.
        num_remembered: Of how many texts to remember the vectors of a text encoder, so that none is read again; those
            that were not used for the longest time are forgotten. A text takes 4 D bytes.

    Raises:
        ValueError: If the ranker has `extra` inputs, which texts alone do not have, or if a ranker of features has no
            encoder.
    """

    def __init__(
        self, ranker: Ranker[Any], encoder: Encoder | LanguageModel | None = None, *, num_remembered: int = 0
    ) -> None:
        if ranker.extra:
            problem = f"this ranker also reads {', '.join(ranker.extra)} of each response, which texts do not have"
            raise ValueError(f"{problem}: call the ranker itself with a FeatureBatch, or train one without `extra`")
        if encoder is None and ranker.batch_type is not TextBatch:
            raise ValueError(f"{ranker.name} does not read texts itself: give the encoder of its features")
        ranker.configure_model()
        self.ranker, self.encoder = ranker.eval(), encoder
        self.remembered = RememberedVectors(num_remembered)

    @classmethod
    def from_pretrained(cls: type[R], path: str | Path) -> R:
        """Load a ranker and its encoder; a ranker that reads texts itself goes to the first GPU, if there is one.

        Args:
            path: The folder of a run, a checkpoint, a folder written by `save_pretrained`, or `user/name` on the hub.

        Raises:
            ConfigError: If the path has no ranker, or its encoder cannot be found.
            ValueError: If the ranker's features were not made by an encoder.
        """
        return cls.of(load_ranker(path), path)

    @classmethod
    def of(cls: type[R], ranker: Ranker[Any], path: str | Path, *, num_remembered: int = 0) -> R:
        """A loaded ranker with its encoder.

        Args:
            ranker: What `load_ranker` returned.
            path: Where it is, for messages.
            num_remembered: Of how many texts to remember the vectors.

        Raises:
            ConfigError: If the encoder cannot be found.
            ValueError: If the ranker's features were not made by an encoder.
        """
        if ranker.batch_type is TextBatch:
            return cls(ranker.to(device_named()))
        if ranker.encoder is None:
            raise ValueError(
                f"{path}: no encoder made the features of this ranker, so it cannot rank texts; "
                "call the ranker itself with a FeatureBatch"
            )
        kind = LanguageModel if "depths" in ranker.encoder else Encoder
        return cls(ranker, kind(**ranker.encoder), num_remembered=num_remembered)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the ranker and the name of its encoder: `config.json` and `model.safetensors`."""
        return save_pretrained(self.ranker, folder)

    @torch.inference_mode()
    def rank(
        self, query: str | Sequence[Message], documents: Sequence[str], top_k: int | None = None
    ) -> list[RankedDocument]:
        """Rank documents, best first.

        Args:
            query: The query; for responses, the user's message, or with an encoder the chat that the model was given.
            documents: Any number of texts; for responses, the model's output without special tokens.
            top_k: Number of documents to return; None for all.

        Raises:
            ValueError: If `documents` is one text and not a list, the query is empty or a chat that the template of the
                model refuses, a text for an encoder is empty, a response with its prompt is too long for the model, or
                `top_k` is not a positive integer.
        """
        check_texts("documents", documents)
        if top_k is not None:
            check_count("top_k", top_k)
        if not len(documents):
            return []
        (scores,) = self.score([Asked(query, documents)])
        return in_order(scores, documents, top_k)

    @torch.inference_mode()
    def score(self, asked: Sequence[Asked], by: Sequence[Score] | None = None) -> list[Float[Tensor, " N"]]:
        """The scores of the documents of several queries, in the order in which they are given.

        A text encoder reads the texts of all queries together. In float32 on a processor each score is equal to the bit
        to what `rank` gives for its query alone, whatever the number of threads. Other models read the texts of all
        queries together if `reads_together`.

        Args:
            asked: The queries with their documents.
            by: What scores for each query, such as a user's ranker; None for the ranker.

        Raises:
            ValueError: As `rank`, for any of the queries.
        """
        if self.encoder is None and self.reads_together and asked:
            return _scores_together(self.ranker, asked)
        work = list(zip(by or [self.ranker] * len(asked), self.batches(asked), strict=True))
        if self.encoder is None:
            return _scores(work)
        (scores,) = in_single_threads(_scores, [work])
        return scores

    @cached_property
    def reads_together(self) -> bool:
        """Whether a model that is no text encoder reads the texts of several queries together.

        That changes scores by rounding, so on a processor, where it gains little, each query is read alone. A ranker
        that asks a language model in words has its questions about all queries answered together.
        """
        if isinstance(self.encoder, LanguageModel):
            return self.encoder.compute_device.type != "cpu"
        return isinstance(self.ranker, Prompted) or _device_of(self.ranker).type != "cpu"

    def batches(self, asked: Sequence[Asked]) -> list[FeatureBatch | TextBatch]:
        """What the ranker scores: one batch for each query, with the vectors of its texts if it reads vectors.

        Raises:
            ValueError: As `rank`, for any of the queries.
        """
        if not asked:
            return []
        device = _device_of(self.ranker)
        if self.encoder is None:
            return [TextBatch.of_group(_text_of(query), documents).to(device) for query, documents in asked]
        if isinstance(self.encoder, LanguageModel):
            parts = [asked] if self.reads_together else [[each] for each in asked]
            vectors = [each for part in parts for each in _states(self.encoder, part)]
        else:
            vectors = self._vectors(self.encoder, asked)
        return [FeatureBatch.of_group(of_query[0], of_documents).to(device) for of_query, of_documents in vectors]

    def reading(self, asked: Asked) -> Reading:
        """How many tokens are read to rank these documents, and how many texts are too long and cut."""
        query, documents = asked
        if isinstance(self.encoder, LanguageModel):
            prompt = len(_prompt_of(self.encoder, query))
            return Reading(prompt + sum(len(self.encoder.chat.tokens(text)) for text in documents), 0)
        if self.encoder is not None:
            lengths = self.encoder.lengths([_text_of(query)], self.encoder.query_prompt)
            lengths += self.encoder.lengths(documents, self.encoder.candidate_prompt)
            longest = self.encoder.max_length
            return Reading(sum(min(each, longest) for each in lengths), sum(each > longest for each in lengths))
        if isinstance(self.ranker, TextRanker):
            return Reading(*self.ranker.tokens_to_read(_text_of(query), documents))
        return Reading(0, 0)

    def check(self, query: str | Sequence[Message], documents: Sequence[str]) -> None:
        """Refuse what the encoder cannot read, as far as this shows without its reading it.

        Raises:
            ValueError: If the query or a document for a text encoder is empty, the query has the wrong form, or the
                model's template refuses it.
        """
        if isinstance(self.encoder, LanguageModel):
            _prompt_of(self.encoder, query)
        elif not _text_of(query).strip():
            raise ValueError("the query is empty")
        elif (empty := next((place for place, text in enumerate(documents) if not text.strip()), None)) is not None:
            raise ValueError(f"document {empty} of {len(documents)} is empty")

    def cut(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """The texts, those with more than `max_tokens` tokens without their ends.

        Raises:
            ValueError: If the ranker has no tokenizer of its own, such as one that asks an endpoint.
        """
        if self._tokenizer is None:
            raise ValueError("this ranker has no tokenizer, so its texts cannot be cut to a number of tokens")
        found = self._tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = [each[:max_tokens] for each in found["offset_mapping"]]
        lengths = [len(ids) for ids in found["input_ids"]]
        return [
            text[: kept[-1][1]] if length > max_tokens else text
            for text, kept, length in zip(texts, offsets, lengths, strict=True)
        ]

    def _vectors(
        self, encoder: Encoder, asked: Sequence[Asked]
    ) -> list[tuple[Float[Tensor, "1 D"], Float[Tensor, "N D"]]]:
        """The vectors of each query and of its documents."""
        for query, documents in asked:
            self.check(query, documents)
        texts = [encoder.query_prompt + _text_of(query) for query, _ in asked]
        texts += [encoder.candidate_prompt + text for _, documents in asked for text in documents]
        vectors = self.remembered.get(texts, partial(encoder.encode, alone=True))
        counts = [len(documents) for _, documents in asked]
        queries, candidates = vectors[: len(asked)].split(1), vectors[len(asked) :].split(counts)
        return list(zip(queries, candidates, strict=True))

    @cached_property
    def _tokenizer(self) -> Any:
        return self.encoder.tokenizer() if self.encoder is not None else getattr(self.ranker, "tokenizer", None)


def _scores(work: Sequence[tuple[Score, FeatureBatch | TextBatch]]) -> list[Float[Tensor, " N"]]:
    return [score(batch)[0].float() for score, batch in work]


def _scores_together(ranker: Ranker[Any], asked: Sequence[Asked]) -> list[Float[Tensor, " N"]]:
    batch = TextBatch.of_groups([_text_of(query) for query, _ in asked], [documents for _, documents in asked])
    scores = ranker(batch.to(_device_of(ranker))).float()
    return [row[: len(documents)] for row, (_, documents) in zip(scores, asked, strict=True)]


def in_order(scores: Float[Tensor, " N"], documents: Sequence[str], top_k: int | None = None) -> list[RankedDocument]:
    """The documents, best first; equal scores keep the order that was given."""
    order: list[int] = scores.argsort(descending=True, stable=True)[:top_k].tolist()
    return [RankedDocument(index, documents[index], float(scores[index])) for index in order]


def _text_of(query: str | Sequence[Message]) -> str:
    if not isinstance(query, str):
        raise ValueError("this ranker reads texts: its query is a text, not a chat")
    if not query:
        raise ValueError("the query is empty")
    return query


def _chat_of(query: str | Sequence[Message]) -> Sequence[Message]:
    return [{"role": "user", "content": query}] if isinstance(query, str) else query


def _prompt_of(model: LanguageModel, query: str | Sequence[Message]) -> Sequence[int]:
    """The tokens of a query, as the model reads it before a response.

    Raises:
        ValueError: If the query is empty, no chat, or a chat that the model's template refuses.
    """
    messages = _chat_of(query)
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"}.issubset(message):
            raise ValueError(f"query[{place}] is not a message with role and content: a query is a text or a chat")
    if not messages or not messages[-1]["content"]:
        raise ValueError("the query is empty")
    try:
        return model.chat.prompt(messages)
    except ConfigError as error:
        if isinstance(query, str):
            raise  # the template is wrong, not the query
        raise ValueError(f"the model's chat template refuses this chat: {error.problem}") from error


def _states(
    model: LanguageModel, asked: Sequence[Asked]
) -> Iterator[tuple[Float[Tensor, "1 D"], Float[Tensor, "N D"]]]:
    """The states of each query and of its documents, which one model reads together."""
    generated = []
    for query, responses in asked:
        _prompt_of(model, query)  # refuses what it cannot read
        messages = _chat_of(query)
        given = [Response(str(place), text) for place, text in enumerate(responses)]
        generated.append(Generated(Task("query", messages[-1]["content"], messages), given))
    for found, (_, responses) in zip(with_states(model, generated), asked, strict=True):
        if found.refusal or found.dropped or found.query_states is None or found.response_states is None:
            lost = found.refusal or f"{found.dropped} of {len(responses)} responses are too long with their prompt"
            raise TooLongError(f"the model cannot read this: {lost}")
        # The depths one after the other, as in a batch of `grouped_features`.
        yield found.query_states.flatten().unsqueeze(0).float().cpu(), found.response_states.flatten(1).float().cpu()


def _device_of(ranker: Ranker[Any]) -> torch.device:
    weight = next(ranker.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device
