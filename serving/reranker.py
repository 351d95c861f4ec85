"""Reranker: a trained ranker with the model whose vectors it reads: texts in, ranked documents out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from features.responses.generation import Generated
from features.responses.states import with_states
from features.texts.tasks import Problem, Response
from language_models.chat_template import Message
from language_models.encoder import Encoder
from language_models.language_model import LanguageModel
from rankers.base import Ranker
from rankers.checkpoint import load_ranker, save_pretrained
from ranking.batch import FeatureBatch
from ranking.texts import check_texts

R = TypeVar("R", bound="Reranker")


@dataclass(frozen=True)
class RankedDocument:
    """One document, ranked.

    Args:
        index: Its place among the documents given, from 0.
        text: The document.
        score: Higher is better; comparable within one query.
    """

    index: int
    text: str
    score: float


class Reranker:
    """Ranks documents for a query, or a language model's responses.

    Args:
        ranker: A trained ranker of features.
        encoder: What made the features it was trained on: an encoder of texts, or the language model whose hidden
            states they are, at one depth.
    """

    def __init__(self, ranker: Ranker[FeatureBatch], encoder: Encoder | LanguageModel) -> None:
        self.ranker, self.encoder = ranker.eval(), encoder

    @classmethod
    def from_pretrained(cls: type[R], path: str | Path) -> R:
        """A ranker with the encoder it names.

        Args:
            path: A run's folder, a checkpoint, or a folder written by `save_pretrained`.

        Raises:
            ConfigError: If there is no ranker there, or its encoder cannot be found.
            ValueError: If the ranker's features were not made by an encoder.
        """
        ranker = load_ranker(path)
        if ranker.encoder is None:
            raise ValueError(
                f"{path}: the features of this ranker came ready made, so texts cannot be ranked by it; "
                "call the ranker itself with a FeatureBatch"
            )
        kind = LanguageModel if "depths" in ranker.encoder else Encoder
        return cls(ranker, kind(**ranker.encoder))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the ranker and its encoder's name: `config.json` and `model.safetensors`."""
        return save_pretrained(self.ranker, folder)

    @torch.inference_mode()
    def rank(
        self, query: str | Sequence[Message], documents: Sequence[str], top_k: int | None = None
    ) -> list[RankedDocument]:
        """The documents, best first.

        Args:
            query: What they are ranked for; for responses, the chat as the model was given it, or the user's message.
            documents: Any number of texts; the responses as the model gave them, without special tokens.
            top_k: How many to return; None for all.

        Raises:
            ValueError: If `documents` is one text and not a list, there is no query, a text for an encoder is empty, a
                response with its prompt is longer than the model can read, or `top_k` is not positive.
        """
        check_texts("documents", documents)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k has to be 1 or more, got {top_k}")
        if not len(documents):
            return []
        scores = self.ranker(self._batch(query, documents))[0].float()
        order: list[int] = scores.argsort(descending=True, stable=True)[:top_k].tolist()
        return [RankedDocument(index, documents[index], float(scores[index])) for index in order]

    def _batch(self, query: str | Sequence[Message], documents: Sequence[str]) -> FeatureBatch:
        count = len(documents)
        of_query, of_documents = self._vectors(query, documents)
        batch = FeatureBatch(
            labels=torch.zeros(1, count),
            mask=torch.ones(1, count, dtype=torch.bool),
            group=torch.zeros(1, dtype=torch.int64),
            slot=torch.arange(count).unsqueeze(0),
            unique_queries=of_query,
            unique_candidates=of_documents,
            query_index=torch.zeros(1, dtype=torch.int64),
            candidate_index=torch.arange(count).unsqueeze(0),
        )
        return batch.to(_device_of(self.ranker))

    def _vectors(
        self, query: str | Sequence[Message], documents: Sequence[str]
    ) -> tuple[Float[Tensor, "1 D"], Float[Tensor, "N D"]]:
        if isinstance(self.encoder, LanguageModel):
            return _states(
                self.encoder, [{"role": "user", "content": query}] if isinstance(query, str) else query, documents
            )
        if not isinstance(query, str):
            raise ValueError("this ranker reads vectors of texts: its query is a text, not a chat")
        return (
            self.encoder.encode([query], prompt=self.encoder.query_prompt),
            self.encoder.encode(list(documents), prompt=self.encoder.candidate_prompt),
        )


def _states(
    model: LanguageModel, messages: Sequence[Message], responses: Sequence[str]
) -> tuple[Float[Tensor, "1 D"], Float[Tensor, "N D"]]:
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"}.issubset(message):
            raise ValueError(f"query[{place}] is no message with a role and a content: a query is a text or a chat")
    if not messages or not messages[-1]["content"]:
        raise ValueError("the query is empty")
    asked = Problem("query", messages[-1]["content"], messages)
    given = [Response(str(place), text) for place, text in enumerate(responses)]
    (found,) = with_states(model, [Generated(asked, given)])
    if found.refusal or found.dropped or found.query_states is None or found.response_states is None:
        lost = found.refusal or f"{found.dropped} of {len(responses)} responses are too long with their prompt"
        raise ValueError(f"the model cannot read this: {lost}")
    return found.query_states[:1].float().cpu(), found.response_states[:, 0].float().cpu()


def _device_of(ranker: Ranker[Any]) -> torch.device:
    weight = next(ranker.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device
