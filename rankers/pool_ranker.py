"""PoolRanker: a ranker that embeds queries and ranks a whole pool by inner products; subclasses embed."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from rankers.base import Ranker
from rankers.judging.judging import Judging
from rankers.judging.pool_table import PoolTable
from rankers.judging.vectors import VectorJudging
from ranking.batch import Batch
from ranking.pool_batch import PoolBatch
from ranking.pool_data import PoolData, Reading
from ranking.stores.candidate_pool import CandidatePool
from registry import Node


class PoolRanker(Ranker[PoolBatch]):
    """Any ranker over a pool.

    By default it is judged by vectors: a subclass writes `query_vectors`. One that scores all candidates itself sets
    `judging = ScoreJudging` and writes `forward`; one that generates candidates, `GenerationJudging` and `generate`.
    """

    batch_type: ClassVar[type[Batch]] = PoolBatch
    judging: ClassVar[type[Judging]] = VectorJudging
    default_loss: ClassVar[Node] = "infonce"
    takes_shared_negatives: ClassVar[bool] = True

    normalize: bool = True
    """Whether candidates count as of length one."""

    _attached: CandidatePool | None = None

    def reading(self) -> Reading:
        """What it reads of queries and candidates."""
        return Reading()

    @property
    def data(self) -> PoolData:
        """The run's pool and queries."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def pool(self) -> CandidatePool:
        """What is ranked: the run's pool, or the one attached."""
        return self._attached or self.data.pool

    def attach(self, pool: CandidatePool) -> None:
        """Rank this pool, outside of any run."""
        self._attached = pool

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B V E"]:
        """V vectors a query, each of which ranks the pool by inner product."""
        raise TypeError(f"{type(self).__name__} does not say how to embed: write query_vectors(batch)")

    def candidates_to_rank(self) -> Any:
        """The pool, or its vectors in memory where they fit: on the GPU if there is one."""
        return PoolTable.of(self.pool, self.device).candidates

    def candidate_scales(self) -> Float[Tensor, " N"] | None:
        """One over each candidate's length; None where they all count as they are."""
        return PoolTable.of(self.pool, self.device).inverse_norms if self.normalize else None
