"""Router: the base of routers on stored vectors; it knows the models, and how they did on training queries."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rankers.base import Ranker, Training
from rankers.language_ranker.similarities import full_precision
from ranking.batch import FeatureBatch
from registry.ranges import Rows


class Tried(NamedTuple):
    """Q queries and what each of M models earned on them; nan where a model was not tried."""

    groups: Int[Tensor, " Q"]
    queries: Float[Tensor, "Q D"]
    models: Float[Tensor, "M D"]
    labels: Float[Tensor, "Q M"]
    performance: Float[Tensor, "Q M"]
    cost: Float[Tensor, "Q M"]

    @classmethod
    def of(cls, data: Any, max_queries: int) -> "Tried":
        """The training queries of a datamodule, evenly spread over the store if there are more than `max_queries`.

        Models are told apart by their ids; each keeps the first vector that it has. A model that was tried on none of
        the kept queries is left out.
        """
        batches = [batch.to("cpu") for batch in data.evaluation_batches("train", data.most_candidates("train"), 1)]
        vectors: dict[str, Tensor] = {}
        places = []
        for batch in batches:
            row, place = batch.mask.nonzero(as_tuple=True)
            ids = [data.candidate_id(slot) for slot in batch.slot[row, place].tolist()]
            found = batch.unique_candidates[batch.candidate_index[row, place]].float()
            for id, vector in zip(ids, found, strict=True):
                vectors.setdefault(id, vector)
            places.append((row, place, ids))
        number = {id: model for model, id in enumerate(vectors)}
        tables: dict[str, list[Tensor]] = {"labels": [], "performance": [], "cost": []}
        for batch, (row, place, ids) in zip(batches, places, strict=True):
            models = torch.tensor([number[id] for id in ids])
            for name, parts in tables.items():
                values, table = getattr(batch, name), torch.full((len(batch.group), len(number)), torch.nan)
                if values is not None:
                    table[row, models] = values[row, place]
                parts.append(table)
        groups, queries = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("group", "query"))
        kept = torch.arange(min(len(groups), max_queries)) * len(groups) // min(len(groups), max_queries)
        columns = {name: torch.cat(parts)[kept] for name, parts in tables.items()}
        tried = (~columns["labels"].isnan()).any(dim=0)
        columns = {name: values[:, tried] for name, values in columns.items()}
        return cls(groups[kept], queries[kept], torch.stack(list(vectors.values()))[tried], **columns)


class Router(Ranker[FeatureBatch]):
    """A ranker that remembers training queries with the labels of every model, as buffers that a checkpoint holds.

    A model that none of these queries has counts as the known one with the most similar vector. A subclass implements
    `scores_of`.

    Args:
        max_queries: The most training queries to keep, evenly spread over the store. Each takes 4 D bytes.
    """

    groups: Tensor
    queries: Tensor
    models: Tensor
    labels: Tensor
    performance: Tensor
    cost: Tensor

    def __init__(self, feature_dim: int, max_queries: Rows = 50_000, **training: Unpack[Training]) -> None:
        super().__init__(**training)
        self._max_queries = max_queries
        self.register_buffer("groups", torch.empty(0, dtype=torch.int64))
        for name in ("queries", "models"):
            self.register_buffer(name, torch.empty(0, feature_dim))
        for name in ("labels", "performance", "cost"):
            self.register_buffer(name, torch.empty(0, 0))

    @property
    def is_pointwise(self) -> bool:
        """True: a model's score depends on the query and the models of training, not on those offered beside it."""
        return True

    def learn_from(self, data: Any) -> None:
        """Keep the training queries, the models, and how each model did."""
        for name, values in Tried.of(data, self._max_queries)._asdict().items():
            setattr(self, name, values.to(self.device))

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "B K"]:
        """The score of each candidate: that of the known model that it is."""
        known = self.known_models(batch)
        return self.scores_of(batch).gather(1, known)

    def known_models(self, batch: FeatureBatch) -> Int[Tensor, "B K"]:
        """The known model that each candidate is, or that is most similar to it.

        Raises:
            ValueError: If no model is known: the router was neither trained by a run nor loaded.
        """
        if not len(self.models):
            raise ValueError(f"{self.name} knows no models: train it by a run, load it, or call learn_from")
        return nearest(batch.unique_candidates.float(), self.models.float())[batch.candidate_index]

    def scores_of(self, batch: FeatureBatch) -> Float[Tensor, "B M"]:
        """The score of every known model for each query."""
        raise TypeError(f"{type(self).__name__} does not say how to score: write scores_of(batch)")

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Make room for as many queries and models as were saved, then load them."""
        for name in ("groups", *Tried._fields):
            if name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[name], device=self.models.device))
        return super().load_state_dict(state_dict, strict, assign)


def nearest(vectors: Float[Tensor, "C D"], known: Float[Tensor, "M D"]) -> Int[Tensor, " C"]:
    """The row of the known vector with the highest cosine to each vector.

    Example:
        >>> nearest(torch.tensor([[2.0, 0.1]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        tensor([1])
    """
    unit = torch.nn.functional.normalize(vectors, dim=1)
    with full_precision(vectors):
        return (unit @ torch.nn.functional.normalize(known, dim=1).T).argmax(dim=1)
