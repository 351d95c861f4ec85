"""BM25: ranks by the words that query and candidate share (Robertson and Zaragoza 2009), through bm25s."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from rankers.judging.judging import Judging
from rankers.judging.scores import ScoreJudging
from rankers.pool_ranker import PoolRanker
from ranking.pools.pool_batch import PoolBatch
from ranking.stores.candidate_pool import CandidatePool
from ranking.texts import check_texts
from registry import RANKERS

# The index of a larger pool needs more memory than most machines have.
_MOST_TEXTS = 2_000_000


class BM25Index:
    """An index of a pool's texts: Lucene's variant, k1 = 1.5, b = 0.75, without English stop words.

    Args:
        texts: The candidates' texts, by row.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s  # here, since it loads scipy

        check_texts("texts", texts)
        self._index = bm25s.BM25()
        tokens = bm25s.tokenize(list(texts), stopwords="en", show_progress=False)
        self._index.index(tokens, show_progress=False)
        self._num_candidates = len(texts)

    def scores(self, query: str) -> Float[Tensor, " N"]:
        """The score of every candidate for one query; 0 if query and candidate share no word."""
        import bm25s

        words: Any = bm25s.tokenize([query], stopwords="en", show_progress=False, return_ids=False)
        known = [word for word in words[0] if word in self._index.vocab_dict]
        if not known:
            return torch.zeros(self._num_candidates)
        return torch.from_numpy(self._index.get_scores(known).copy())


@RANKERS.register("bm25")
class BM25(Untrained[PoolBatch], PoolRanker):
    """Ranks a pool by its texts; the index is built once per run."""

    judging: ClassVar[type[Judging]] = ScoreJudging

    _indexed: tuple[CandidatePool, BM25Index] | None = None

    def lacks(self, data: Any) -> str | None:
        """Report a pool that is too large to index."""
        if data.pool.num_candidates <= _MOST_TEXTS:
            return None
        return f"an index of {data.pool.num_candidates:,} texts would not fit in memory"

    def forward(self, batch: PoolBatch) -> Float[Tensor, "B N"]:
        """Every candidate's score for each query's text."""
        texts = [self.data.pool.queries.text(query) for query in batch.group.tolist()]
        pool = self.data.pool
        if self._indexed is None or self._indexed[0] is not pool:
            self._indexed = pool, BM25Index([pool.text(row) for row in range(pool.num_candidates)])
        scores = [self._indexed[1].scores(text) for text in texts]
        return torch.stack(scores) if scores else torch.empty(0, pool.num_candidates)
