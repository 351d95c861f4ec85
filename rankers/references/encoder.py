"""Encoder: ranks by the cosine of the frozen encoder's vectors (zero-shot retrieval)."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from rankers.base import Untrained
from rankers.pool_ranker import PoolRanker
from ranking.pools.pool_batch import PoolBatch
from registry import RANKERS


@RANKERS.register("encoder")
class EncoderRanker(Untrained[PoolBatch], PoolRanker):
    """Ranks a pool by the cosine of the stored vectors of query and candidate."""

    def lacks(self, data: Any) -> str | None:
        """Report a pool whose queries have no vectors."""
        some = data.pool.queries.features(data.queries("val")[:1]).float()
        return None if bool(some.any()) else "the pool has no vectors of queries"

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B 1 D"]:
        """The stored vectors of the queries, of length one."""
        vectors = self.data.pool.queries.features(batch.group.cpu()).float()
        return nn.functional.normalize(vectors, dim=1).to(batch.group.device).unsqueeze(1)
