"""ModelRouter: a trained router with the language models to choose from; says which to ask, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from language_models.chat_template import Message
from rankers.routers.router import Router
from rankers.routers.router_bert import RouterBERT
from rankers.routers.router_knn import RouterKNN
from ranking.batch import FeatureBatch, TextBatch
from serving.reranker import Asked, Reranker

# Vectors of one text that were computed in different batches or number formats are at least as similar as this.
_SAME = 0.999


class RoutedModel(NamedTuple):
    """A language model to choose from, with the text that describes it to the router."""

    id: str
    text: str


@dataclass(frozen=True)
class ModelChoice:
    """A language model as the router sees it for one query.

    Args:
        id: The id of the model.
        score: Higher is better.
        mean_label: What it earned on the training queries on average; None if the router does not remember it.
        mean_cost: What its answers to the training queries cost on average; None if this is not known.
        reasons: What the score is made of, in words.
    """

    id: str
    score: float
    mean_label: float | None
    mean_cost: float | None
    reasons: list[str]


class ModelRouter:
    """Chooses a language model for a query.

    Args:
        reranker: A trained router, with its encoder if it reads vectors.
        models: The models to choose from unless a call names others; those that `router_bert` knows are used if none
            are given.
    """

    def __init__(self, reranker: Reranker, models: Sequence[RoutedModel] = ()) -> None:
        ranker = reranker.ranker
        if not models and isinstance(ranker, RouterBERT):
            models = [RoutedModel(text, text) for text in ranker.models or ()]
        self.reranker, self.models = reranker, list(models)

    @torch.inference_mode()
    def route(
        self, queries: Sequence[str | Sequence[Message]], models: Sequence[Sequence[RoutedModel]]
    ) -> list[list[ModelChoice]]:
        """The models for each query, best first.

        Args:
            queries: The queries, which are read together.
            models: The models to choose from for each query.

        Raises:
            ValueError: If a query is empty, or there is no model to choose from.
        """
        if not all(models):
            raise ValueError("there is no model to choose from: name some, or start the server with a file of models")
        asked = [
            Asked(_text_of(query), [model.text for model in each]) for query, each in zip(queries, models, strict=True)
        ]
        batches = self.reranker.batches(asked)
        return [self._choices(batch, each) for batch, each in zip(batches, models, strict=True)]

    def _choices(self, batch: FeatureBatch | TextBatch, models: Sequence[RoutedModel]) -> list[ModelChoice]:
        router = self.reranker.ranker
        scores: Float[Tensor, " M"] = router(batch)[0].float()
        order: list[int] = scores.argsort(descending=True, stable=True).tolist()
        found = []
        for rank, place in enumerate(order):
            below = order[rank + 1] if rank + 1 < len(order) else None
            reasons = (
                []
                if below is None
                else [f"scores {float(scores[place] - scores[below]):.3g} more than {models[below].id}"]
            )
            mean_label, mean_cost = None, None
            if isinstance(router, Router) and isinstance(batch, FeatureBatch):
                known = int(router.known_models(batch)[0, place])
                mean_label, mean_cost = _mean(router.labels[:, known]), _mean(router.cost[:, known])
                reasons += _reasons(router, batch, place, known)
            found.append(ModelChoice(models[place].id, float(scores[place]), mean_label, mean_cost, reasons))
        return found


def _reasons(router: Router, batch: FeatureBatch, place: int, known: int) -> list[str]:
    reasons = []
    if isinstance(router, RouterKNN):
        near = router.neighbours(batch)
        row = int(batch.query_index[0])
        earned = _mean(router.labels[near.indices[row], known])
        if earned is not None:
            closest, farthest = float(near.values[row, 0]), float(near.values[row, -1])
            among = (
                f"the {near.indices.shape[1]} most similar training queries (cosines {closest:.2f} to {farthest:.2f})"
            )
            reasons.append(f"earned {earned:.3g} on {among}")
    everywhere = _mean(router.labels[:, known])
    if everywhere is not None:
        reasons.append(f"earned {everywhere:.3g} on all {len(router.queries):,} training queries that are remembered")
    candidate = batch.unique_candidates[batch.candidate_index[0, place]].float()
    likeness = float(torch.nn.functional.cosine_similarity(candidate, router.models[known].float(), dim=0))
    if likeness < _SAME:
        reasons.append(f"was not tried in training: counts as the most similar model that was (cosine {likeness:.2f})")
    return reasons


def _mean(values: Float[Tensor, " N"]) -> float | None:
    mean = float(values.float().nanmean()) if len(values) else float("nan")
    return None if mean != mean else mean


def _text_of(query: str | Sequence[Message]) -> str:
    """A chat as a router reads it: what the user said last."""
    if isinstance(query, str):
        return query
    said = [each["content"] for each in query if isinstance(each, Mapping) and each.get("role") == "user"]
    if not said:
        raise ValueError("the chat has no message of the user")
    return said[-1]
