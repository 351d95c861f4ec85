"""GraphRouter: messages along the edges between queries and the models that were tried on them."""

from typing import Annotated, ClassVar, Literal, Unpack

import torch
from annotated_types import Interval
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rankers.base import Reporting
from rankers.language_ranker.similarities import full_precision
from rankers.routers.router import Router
from ranking.batch import FeatureBatch
from registry import LOSSES, OPTIMIZERS, RANKERS, SCHEDULES, Node
from registry.ranges import FeatureDim, Fraction, Rows, Width

_NUM_EDGE_FEATURES = 3


@RANKERS.register("graph_router")
class GraphRouter(Router):
    """A graph of training queries and models with what was earned on its edges (Feng et al. 2024, arXiv 2410.03834).

    A node begins as a linear map of its vector. In each round, with e(q, m) = MLP [label, cost, performance]:

    h_m = ReLU(norm(S h_m + mean over its queries q of (N h_q + e(q, m)))), and likewise h_q over its models; the last
    round has no ReLU.

    score(q, m) = mean over coordinates of h_q * h_m, whose sigmoid is the probability that m should answer q. In
    training, edges of each step's queries are hidden, and predicted. A new query has no edges.

    Note:
        The paper also has nodes for the tasks of queries, which must then be known; here the query's vector says what
        it is about. The paper hides single edges, so in training a query has edges, and a new query none: see `hide`.
        Costs are divided by the largest one, and layer norm replaces batch norm.

    Args:
        dim: Size of a node's state.
        num_rounds: Number of rounds of messages.
        hidden: With `hide: edges`, the share of the edges of a step's queries that are hidden in training.
        hide: Which edges of a step's queries are hidden: a random share of the `edges`, as published, or with `queries`
            all of them, so that these queries are like new ones.
        max_queries: The most training queries in the graph, evenly spread over the store. Each takes 4 D bytes.
    """

    default_loss: ClassVar[Node] = "bce"

    def __init__(
        self,
        feature_dim: FeatureDim,
        dim: Width = 32,
        num_rounds: Annotated[int, Interval(ge=1, le=8)] = 2,
        hidden: Fraction = 0.5,
        hide: Literal["edges", "queries"] = "queries",
        max_queries: Rows = 5_000,
        loss: Annotated[Node, LOSSES] | None = None,
        optimizer: Annotated[Node, OPTIMIZERS] = {"name": "adamw", "lr": 3e-4},  # noqa: B006
        schedule: Annotated[Node, SCHEDULES] = "constant",
        **reporting: Unpack[Reporting],
    ) -> None:
        super().__init__(feature_dim, max_queries, loss=loss, optimizer=optimizer, schedule=schedule, **reporting)
        self.query, self.model = nn.Linear(feature_dim, dim), nn.Linear(feature_dim, dim)
        self._rounds = [_Round(dim, last=number == num_rounds) for number in range(1, num_rounds + 1)]
        self.rounds = nn.ModuleList(self._rounds)
        self._hidden, self._hide = hidden, hide

    def training_scores(
        self, batch: FeatureBatch
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"], Bool[Tensor, "B K"]]:
        """Scores and labels of all edges of the step's queries, and which of these edges were hidden."""
        known = self.known_models(batch)
        share = 1.0 if self._hide == "queries" else self._hidden
        hidden = torch.rand(len(batch.group), len(self.models), device=self.labels.device) < share
        hidden |= ~hidden.any(dim=1, keepdim=True)  # a query with nothing hidden would teach nothing
        seen, (row, place) = self._tried, (self.groups.unsqueeze(0) == batch.group.unsqueeze(1)).nonzero(as_tuple=True)
        seen[place] = seen[place].masked_scatter(hidden[row], torch.zeros_like(hidden[row]))
        queries, models = self._states(seen)
        own = self._new(batch.unique_queries.float())[batch.query_index].index_copy(0, row, queries[place])
        return self._products(own, models).gather(1, known), batch.labels, batch.mask & hidden.gather(1, known)

    def scores_of(self, batch: FeatureBatch) -> Float[Tensor, "B M"]:
        """The scores of queries that have no edges."""
        _, models = self._states(self._tried)
        return self._products(self._new(batch.unique_queries.float()), models)[batch.query_index]

    @property
    def _tried(self) -> Bool[Tensor, "Q M"]:
        """The edges of the graph: which model was tried on which query."""
        return ~self.labels.isnan()

    def _states(self, seen: Bool[Tensor, "Q M"]) -> tuple[Float[Tensor, "Q d"], Float[Tensor, "M d"]]:
        """The states of the graph's queries and models after all rounds, with messages along the seen edges."""
        cost = self.cost / self.cost.nan_to_num(0).abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        features = torch.stack([self.labels, cost, self.performance], dim=-1).nan_to_num(0)
        dtype = self.query.weight.dtype
        features, queries, models = features.to(dtype), self.queries.to(dtype), self.models.to(dtype)
        queries, models = self.query(queries), self.model(models)
        for each in self._rounds:
            queries, models = each(queries, models, features, seen)
        return queries, models

    def _new(self, vectors: Float[Tensor, "N D"]) -> Float[Tensor, "N d"]:
        """The states of queries without edges."""
        states = self.query(vectors.to(self.query.weight.dtype))
        for each in self._rounds:
            states = each.alone(states)
        return states

    @staticmethod
    def _products(queries: Float[Tensor, "B d"], models: Float[Tensor, "M d"]) -> Float[Tensor, "B M"]:
        with full_precision(queries):
            return queries.float() @ models.float().T / queries.shape[1]


class _Round(nn.Module):
    """One round of messages between queries and models."""

    def __init__(self, dim: int, *, last: bool) -> None:
        super().__init__()
        self._last = last
        self.own, self.message = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.edge = nn.Sequential(nn.Linear(_NUM_EDGE_FEATURES, dim), nn.ReLU(), nn.Linear(dim, dim, bias=False))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        queries: Float[Tensor, "Q d"],
        models: Float[Tensor, "M d"],
        features: Float[Tensor, "Q M 3"],
        seen: Bool[Tensor, "Q M"],
    ) -> tuple[Float[Tensor, "Q d"], Float[Tensor, "M d"]]:
        """The states of queries and models after the round."""
        weights = seen.to(queries.dtype)
        edges = self.edge(features) * weights.unsqueeze(-1)
        of_queries = (weights @ self.message(models) + edges.sum(dim=1)) / weights.sum(dim=1, keepdim=True).clamp(min=1)
        of_models = weights.T @ self.message(queries) + edges.sum(dim=0)
        of_models = of_models / weights.sum(dim=0).unsqueeze(1).clamp(min=1)
        return self._updated(queries, of_queries), self._updated(models, of_models)

    def alone(self, states: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
        """The states of nodes that get no messages."""
        return self._updated(states, torch.zeros_like(states))

    def _updated(self, states: Float[Tensor, "N d"], messages: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
        updated = self.norm(self.own(states) + messages)
        return updated if self._last else torch.relu(updated)
