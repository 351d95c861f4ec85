"""PoolRanker: a ranker that embeds queries and ranks a whole pool by inner products."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from rankers.base import Ranker
from rankers.judging.judging import Judging
from rankers.judging.pool_table import PoolTable
from rankers.judging.vectors import VectorJudging
from ranking.batch import Batch
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import PoolData, Reading
from ranking.stores.candidate_pool import CandidatePool
from registry import Node

POOL_METRICS: list[Node] = ["mrr", "ndcg@10", "recall@1", "recall@10", "recall@100"]
"""What rankers over a whole pool report, if nothing else is asked for."""


class PoolRanker(Ranker[PoolBatch]):
    """Base class of rankers over a pool.

    By default, a ranker is judged by its vectors, and a subclass implements `query_vectors`. A subclass that scores all
    candidates itself sets `judging = ScoreJudging` and implements `forward`. A subclass that generates candidates sets
    `judging = GenerationJudging` and implements `generate`.
    """

    batch_type: ClassVar[type[Batch]] = PoolBatch
    judging: ClassVar[type[Judging]] = VectorJudging
    default_loss: ClassVar[Node] = "infonce"
    takes_shared_negatives: ClassVar[bool] = True

    normalize: bool = True
    """Whether candidates count as of length one."""

    _attached: CandidatePool | None = None

    def reading(self) -> Reading:
        """What the ranker reads of queries and candidates."""
        return Reading()

    @property
    def data(self) -> PoolData:
        """The run's pool and queries."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def pool(self) -> CandidatePool:
        """The pool to rank: the run's pool, or the one given to `attach`."""
        return self._attached or self.data.pool

    def attach(self, pool: CandidatePool) -> None:
        """Set the pool to rank outside of a run."""
        self._attached = pool

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B V E"]:
        """V vectors per query; each ranks the pool by inner product."""
        raise TypeError(f"{type(self).__name__} does not say how to embed: write query_vectors(batch)")

    def final_vectors(self, batch: PoolBatch, start: Float[Tensor, "B D"] | None) -> Float[Tensor, "B E"]:
        """The one vector per query that ranks the pool, with all that validation chose.

        Args:
            batch: The queries.
            start: The frozen encoder's vectors of the queries, for a ranker whose scores have a share of it; None if
                there are none.
        """
        return self.query_vectors(batch)[:, -1]

    def refresh_candidates(self) -> None:
        """Make `candidates_to_rank` those of the current weights, for a ranker that embeds candidates itself."""

    def candidates_to_rank(self) -> Any:
        """The pool, or its vectors in memory if they fit: on the GPU if one is used."""
        return PoolTable.of(self.pool, self.device).candidates

    def candidate_scales(self) -> Float[Tensor, " N"] | None:
        """1 / length of each candidate vector; None if the vectors are used as they are."""
        return PoolTable.of(self.pool, self.device).inverse_norms if self.normalize else None
