"""VectorJudging: embeds queries batch by batch, then ranks the pool by inner products in one scan."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from rankers.judging.pool import PoolJudging
from ranking.places import Places
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_evaluation import PoolEvaluationState, Qrels, best
from ranking.vectors.search import WatchedPool


class VectorJudging(PoolJudging):
    """Collects the vectors of all queries, then ranks the pool for all of them at once.

    Args:
        ranker: A PoolRanker that embeds queries.
        references: The rankers without weights that it is compared with, by name.
    """

    def __init__(self, ranker: Any, references: Mapping[str, Any]) -> None:
        super().__init__(ranker, references)
        self._state = PoolEvaluationState()

    def collect(self, batch: PoolBatch) -> None:
        """Keep the vectors of one batch of queries."""
        self._state.update(batch.group, self.query_vectors(batch))

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B V E"]:
        """V vectors per query."""
        return self.ranker.query_vectors(batch)

    def collected(self) -> Int[Tensor, " Q"]:
        """The queries that were collected."""
        found = self._state.compute()
        self._state.reset()
        queries, self._vectors = found.queries, found.vectors.to(self.ranker.device)
        own, removed = self.data.restrictions(queries)
        limits = {"own": own, "removed": removed, "distributed": self.trainer.world_size > 1}
        self._given: dict[str, Any] = {**limits, "inverse_norms": self.ranker.candidate_scales()}
        return queries

    def places(self, qrels: Qrels) -> dict[str, Places]:
        """The places of the judged candidates, by the vector that `choose` selects."""
        with self._scan() as pool:
            found = qrels.places(self._vectors, pool, **self._given).to_depth(self._depth)
        self._chosen, others = self.choose(found, qrels)
        return {**others, self.ranker.name: Places(*(each[self._chosen] for each in found))}

    def choose(self, places: Places, qrels: Qrels) -> tuple[int, dict[str, Places]]:
        """Choose one of the V vectors, whose places are `[V, Q, P]`, and return the places of others to report."""
        return 0, {}

    def best(self, k: int) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
        """The k candidates with the highest scores."""
        with self._scan() as pool:
            return best(self._vectors[:, self._chosen], pool, k, **self._given)

    @contextmanager
    def _scan(self) -> Iterator[Any]:
        """The candidates to rank, with a progress display if queries rank the whole pool."""
        candidates = self.ranker.candidates_to_rank()
        if self._given["own"] is not None:
            yield candidates
            return
        # Each process ranks a share of the queries.
        share = -(-self.ranker.pool.num_candidates // self.trainer.world_size)
        with self.progress(share, doing="Ranking", done="Ranked", unit="candidates") as shown:
            yield WatchedPool(candidates, shown.report)
