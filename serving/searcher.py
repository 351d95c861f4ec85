"""Searcher: a trained ranker with a pool of candidates; takes queries and returns the best candidates."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from language_models.encoder import Encoder
from rankers.checkpoint import load_ranker
from rankers.lranker.lranker import LRanker
from ranking.counts import check_count
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_evaluation import best
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.joined_pool import DECIDES_VECTORS
from ranking.texts import check_texts
from registry import ConfigError
from serving.slices import Share

S = TypeVar("S", bound="Searcher")


@dataclass(frozen=True)
class FoundCandidate:
    """A ranked candidate of the pool.

    Args:
        id: The id of the candidate in the pool.
        text: The text of the candidate.
        score: Higher is better; comparable only within one query.
    """

    id: str
    text: str
    score: float


class Searcher:
    """Ranks a pool for queries, with the test-time scaling that validation selected.

    Args:
        ranker: A trained LRanker.
        pool: A candidate pool made by the encoder of the ranker's training; it may have other candidates.
        share: Where other processes search slices of the pool: called with the search of this process's slice, vectors
            and a number of candidates. None to search the whole pool here.

    Raises:
        ConfigError: If another encoder made the pool, or scores have a share of an encoder that is not known.
    """

    def __init__(self, ranker: LRanker, pool: CandidatePool, share: Share | None = None) -> None:
        ours, theirs = ranker.encoder or {}, pool.encoder or {}
        # Fields of queries do not matter: the ranker embeds queries itself.
        for field in (*DECIDES_VECTORS, "feature_dim"):
            wanted, found = ours.get(field), theirs.get(field)
            if field == "feature_dim":
                wanted, found = ranker.feature_dim, pool.feature_dim
            if wanted != found:
                problem = f"made by another encoder than the one this ranker was trained with: {field} is {found!r}"
                cure = "build the pool with the encoder of the run's config"
                raise ConfigError(str(pool.path), f"{problem}, not {wanted!r}.", cure=cure)
        mixed = ranker.mixing.share or 0.0 if ranker.mixing else 0.0
        if mixed and not ours:
            problem = f"the ranker's scores have a share of {mixed:g} of an encoder that the pool does not name."
            raise ConfigError("ranker.mixing", problem, cure="train with ranker.mixing=null")
        self._encoder = Encoder(**ours) if mixed else None
        self.ranker, self.pool, self._shared = ranker.eval(), pool, share
        ranker.attach(pool)

    @classmethod
    def from_pretrained(cls: type[S], path: str | Path, pool: str | Path) -> S:
        """Load a ranker and the pool that it ranks.

        Args:
            path: The folder of a run, a checkpoint, a folder written by `save_pretrained`, or `user/name` on the hub.
            pool: The folder of a candidate pool.

        Raises:
            ConfigError: If the path has no LRanker, or the pool cannot be opened or does not fit.
        """
        ranker = load_ranker(path)
        if not isinstance(ranker, LRanker):
            cure = "serving.reranker.Reranker ranks documents that are given with the query"
            raise ConfigError(str(path), f"{type(ranker).__name__} does not rank a pool.", cure=cure)
        return cls(ranker, CandidatePool.open(pool))

    @torch.inference_mode()
    def rank(self, queries: Sequence[str], top_k: int = 10) -> list[list[FoundCandidate]]:
        """The best candidates for each query, best first.

        Args:
            queries: Query texts; one call processes them together.
            top_k: Number of candidates to return for each query.

        Raises:
            ValueError: If `queries` is one text and not a list, a query is empty, or `top_k` is not a positive integer.
        """
        check_texts("queries", queries)
        check_count("top_k", top_k)
        if (empty := next((place for place, text in enumerate(queries) if not text.strip()), None)) is not None:
            raise ValueError(f"query {empty} of {len(queries)} is empty")
        if not len(queries):
            return []
        start = None
        if self._encoder is not None:
            start = self._encoder.encode(queries, prompt=self._encoder.query_prompt).to(self.ranker.device)
        vectors = self.ranker.final_vectors(self._batch(queries), start)
        k = min(top_k, self.pool.num_candidates)
        if self._shared is None:
            scores, rows = self.search(vectors, k)
        else:
            scores, rows = self._shared(partial(self.search, distributed=True), vectors, k)
        return [
            [FoundCandidate(self.pool.id(row), self.pool.text(row), score) for row, score in zip(*found, strict=True)]
            for found in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def is_cut(self, query: str) -> bool:
        """Whether a query is longer than the ranker reads, so that its end does not count."""
        before = self.ranker.num_cut
        self.ranker.tokenize([query])
        return self.ranker.num_cut > before

    def search(
        self, vectors: Float[Tensor, "Q E"], k: int, *, distributed: bool = False
    ) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
        """The highest scores of the pool for queries' vectors, and their rows.

        Args:
            vectors: The vectors.
            k: How many to find.
            distributed: Whether each process searches only its slice of the pool; all must pass the same vectors.
        """
        candidates, scales = self.ranker.candidates_to_rank(), self.ranker.candidate_scales()
        return best(vectors, candidates, k, inverse_norms=scales, distributed=distributed)

    def _batch(self, queries: Sequence[str]) -> PoolBatch:
        tokens = [torch.tensor(ids) for ids in self.ranker.tokenize(queries)]
        count, none = len(queries), torch.empty(0, dtype=torch.int64)
        batch = PoolBatch(
            labels=torch.empty(count, 0),
            mask=torch.empty(count, 0, dtype=torch.bool),
            group=torch.arange(count),
            slot=torch.empty(count, 0, dtype=torch.int64),
            rows=none,
            candidates=torch.empty(0, self.pool.feature_dim),
            tokens=torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True),
            lengths=torch.tensor([len(ids) for ids in tokens]),
            partition=torch.full((count,), -1),
        )
        return batch.to(self.ranker.device)
