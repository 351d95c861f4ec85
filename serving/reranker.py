"""Reranker: a trained ranker, with the model that makes its vectors if it needs any; ranks texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
from rankers.base import Ranker
from rankers.checkpoint import load_ranker, save_pretrained
from ranking.batch import FeatureBatch, TextBatch
from ranking.texts import check_texts

R = TypeVar("R", bound="Reranker")


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


class Reranker:
    """Ranks documents for a query, or a language model's responses.

    Args:
        ranker: A trained ranker of features, or one that reads texts itself, such as a reward model.
        encoder: The model that made the features of its training: a text encoder, or the language model whose hidden
            states are the features. None for a ranker that reads texts itself.

    Raises:
        ValueError: If the ranker has `extra` inputs, which texts alone do not have, or if a ranker of features has no
            encoder.
    """

    def __init__(self, ranker: Ranker[Any], encoder: Encoder | LanguageModel | None = None) -> None:
        if ranker.extra:
            problem = f"this ranker also reads {', '.join(ranker.extra)} of each response, which texts do not have"
            raise ValueError(f"{problem}: call the ranker itself with a FeatureBatch, or train one without `extra`")
        if encoder is None and ranker.batch_type is not TextBatch:
            raise ValueError(f"{ranker.name} does not read texts itself: give the encoder of its features")
        ranker.configure_model()
        self.ranker, self.encoder = ranker.eval(), encoder

    @classmethod
    def from_pretrained(cls: type[R], path: str | Path) -> R:
        """Load a ranker and its encoder; a ranker that reads texts itself goes to the first GPU, if there is one.

        Args:
            path: The folder of a run, a checkpoint, a folder written by `save_pretrained`, or `user/name` on the hub.

        Raises:
            ConfigError: If the path has no ranker, or its encoder cannot be found.
            ValueError: If the ranker's features were not made by an encoder.
        """
        ranker = load_ranker(path)
        if ranker.batch_type is TextBatch:
            return cls(ranker.to(device_named()))
        if ranker.encoder is None:
            raise ValueError(
                f"{path}: no encoder made the features of this ranker, so it cannot rank texts; "
                "call the ranker itself with a FeatureBatch"
            )
        kind = LanguageModel if "depths" in ranker.encoder else Encoder
        return cls(ranker, kind(**ranker.encoder))

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
            ValueError: If `documents` is one text and not a list, the query is empty, a text for an encoder is empty, a
                response with its prompt is too long for the model, or `top_k` is not positive.
        """
        check_texts("documents", documents)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k has to be 1 or more, got {top_k}")
        if not len(documents):
            return []
        scores = self.ranker(self._batch(query, documents))[0].float()
        order: list[int] = scores.argsort(descending=True, stable=True)[:top_k].tolist()
        return [RankedDocument(index, documents[index], float(scores[index])) for index in order]

    def _batch(self, query: str | Sequence[Message], documents: Sequence[str]) -> FeatureBatch | TextBatch:
        count = len(documents)
        batch: FeatureBatch | TextBatch
        if self.encoder is None:
            batch = TextBatch(
                labels=torch.zeros(1, count),
                mask=torch.ones(1, count, dtype=torch.bool),
                group=torch.zeros(1, dtype=torch.int64),
                slot=torch.arange(count).unsqueeze(0),
                queries=[_text_of(query)],
                candidates=[list(documents)],
            )
        else:
            of_query, of_documents = self._vectors(self.encoder, query, documents)
            batch = FeatureBatch.of_group(of_query[0], of_documents)
        return batch.to(_device_of(self.ranker))

    @staticmethod
    def _vectors(
        encoder: Encoder | LanguageModel, query: str | Sequence[Message], documents: Sequence[str]
    ) -> tuple[Float[Tensor, "1 D"], Float[Tensor, "N D"]]:
        if isinstance(encoder, LanguageModel):
            return _states(
                encoder, [{"role": "user", "content": query}] if isinstance(query, str) else query, documents
            )
        return (
            encoder.encode([_text_of(query)], prompt=encoder.query_prompt),
            encoder.encode(list(documents), prompt=encoder.candidate_prompt),
        )


def _text_of(query: str | Sequence[Message]) -> str:
    if not isinstance(query, str):
        raise ValueError("this ranker reads texts: its query is a text, not a chat")
    if not query:
        raise ValueError("the query is empty")
    return query


def _states(
    model: LanguageModel, messages: Sequence[Message], responses: Sequence[str]
) -> tuple[Float[Tensor, "1 D"], Float[Tensor, "N D"]]:
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"}.issubset(message):
            raise ValueError(f"query[{place}] is not a message with role and content: a query is a text or a chat")
    if not messages or not messages[-1]["content"]:
        raise ValueError("the query is empty")
    asked = Task("query", messages[-1]["content"], messages)
    given = [Response(str(place), text) for place, text in enumerate(responses)]
    (found,) = with_states(model, [Generated(asked, given)])
    if found.refusal or found.dropped or found.query_states is None or found.response_states is None:
        lost = found.refusal or f"{found.dropped} of {len(responses)} responses are too long with their prompt"
        raise ValueError(f"the model cannot read this: {lost}")
    # The depths one after the other, as in a batch of `grouped_features`.
    return found.query_states.flatten().unsqueeze(0).float().cpu(), found.response_states.flatten(1).float().cpu()


def _device_of(ranker: Ranker[Any]) -> torch.device:
    weight = next(ranker.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device
