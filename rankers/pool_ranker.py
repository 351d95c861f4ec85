"""PoolRanker: a ranker that embeds queries and ranks a whole pool by inner products; subclasses embed."""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import Metric

from rankers.base import Ranker
from rankers.baselines.bm25 import BM25
from ranking.candidate_pool import CandidatePool
from ranking.evaluation import Judged
from ranking.pool_batch import PoolBatch
from ranking.pool_evaluation import PoolEvaluation, PoolEvaluationState, Relevant, best
from ranking.search import inverse_norms
from registry import RANK_METRICS, Node, Registry

Baseline = Literal["bm25", "encoder"]

# Candidates in a run file, as TREC has it, and candidates that are only looked at while training goes on.
_RUN_DEPTH, _GLANCE_DEPTH = 100, 10
# A pool that takes no more than this share of a GPU's free memory is kept there.
_RESIDENT = 0.6
# On a processor, pools above this many bytes stay on disk and in the system's cache of it.
_SMALL = 2**30


class PoolRanker(Ranker[PoolBatch]):
    """Validation and test of any ranker over a pool: vectors of the queries batch by batch, then one scan of the pool.

    A subclass writes `query_vectors`; where it gives several vectors a query, `judge_variants` says which of them
    counts. Baselines stand beside it: BM25 over the texts, and the frozen encoder's own vectors by cosine.
    """

    default_loss: ClassVar[Node] = "infonce"
    metric_kind: ClassVar[Registry[Tensor]] = RANK_METRICS
    takes_shared_negatives: ClassVar[bool] = True

    normalize: bool = True
    """Whether candidates count as of length one."""

    baselines: list[Baseline]
    """Which baselines to compute."""

    _references: dict[str, dict[str, Float[Tensor, "Q P"]]]
    _attached: CandidatePool | None = None
    _resident: Tensor | None = None
    _inverse_norms: Tensor | None = None

    @property
    def pool(self) -> CandidatePool:
        """What is ranked: the run's pool, or the one attached."""
        return self._attached or self.trainer.datamodule.pool  # type: ignore[attr-defined]

    def attach(self, pool: CandidatePool) -> None:
        """Rank this pool, outside of any run."""
        self._attached, self._resident, self._inverse_norms = pool, None, None

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B V E"]:
        """V vectors a query, each of which ranks the pool by inner product."""
        raise TypeError(f"{type(self).__name__} does not say how to embed: write query_vectors(batch)")

    def judge_variants(
        self, ranks: Float[Tensor, "V Q P"], relevant: Relevant
    ) -> tuple[int, dict[str, Float[Tensor, "Q P"]]]:
        """Which variant counts, and the ranks of others worth reporting, by name."""
        return 0, {}

    def collect(self) -> Metric:
        """What collects the queries' vectors."""
        self._references = {}
        return PoolEvaluationState()

    def validation_step(self, batch: PoolBatch, batch_idx: int) -> None:
        """Keep the vectors of one batch of queries."""
        self._state.update(batch.group, self.query_vectors(batch))

    def test_step(self, batch: PoolBatch, batch_idx: int) -> None:
        """Keep the vectors of one batch of queries."""
        self._state.update(batch.group, self.query_vectors(batch))

    def judge(self, split: str) -> Judged:
        """Rank the pool for all queries that were collected."""
        queries, vectors = self._state.compute()
        self._state.reset()
        data, pool = self.trainer.datamodule, self.candidates_to_rank()  # type: ignore[attr-defined]
        relevant = Relevant.of(data.pool, queries)
        own, removed = data.restrictions(queries)
        limits = {"own": own, "removed": removed}
        given = {**limits, "inverse_norms": self.candidate_scales(), "distributed": self.trainer.world_size > 1}
        vectors = vectors.to(self.device)
        found = relevant.ranks(vectors, pool, **given)
        chosen, others = self.judge_variants(found, relevant)
        ranks = {**self._baseline_ranks(split, relevant, limits), **others, self._name: found[chosen]}
        depth = _GLANCE_DEPTH if self.trainer.state.fn == "fit" else _RUN_DEPTH
        top = best(vectors[:, chosen], pool, min(depth, data.pool.num_candidates), **given)
        return PoolEvaluation(self._name, relevant, ranks, *top)

    def candidates_to_rank(self) -> Any:
        """The pool, or its vectors in memory where they fit: on the GPU if there is one."""
        pool = self.pool
        if self._resident is None:
            size = pool.num_candidates * pool.feature_dim * pool.dtype.itemsize
            on_gpu = self.device.type == "cuda"
            if size > (_RESIDENT * torch.cuda.mem_get_info(self.device)[0] if on_gpu else _SMALL):
                return pool
            self._resident = torch.empty(pool.num_candidates, pool.feature_dim, dtype=pool.dtype, device=self.device)
            start = 0
            for block in pool.blocks():
                self._resident[start : start + len(block)].copy_(block)
                start += len(block)
        return self._resident

    def candidate_scales(self) -> Float[Tensor, " N"] | None:
        """One over each candidate's length; None where they all count as they are."""
        pool = self.pool
        if not self.normalize or pool.normalized:
            return None
        if self._inverse_norms is None:
            self._inverse_norms = inverse_norms(pool).to(self.device)
        return self._inverse_norms

    @property
    def _name(self) -> str:
        return self.description()["ranker"]["name"] or type(self).__name__

    def _baseline_ranks(
        self, split: str, relevant: Relevant, limits: dict[str, Any]
    ) -> dict[str, Float[Tensor, "Q P"]]:
        """The baselines' ranks; they stay the same from one validation to the next."""
        key = f"{split} {len(relevant.queries)}"
        if key not in self._references:
            self._references[key] = {name: self._baseline(name, relevant, limits) for name in self.baselines}
        return self._references[key]

    def _baseline(self, name: Baseline, relevant: Relevant, limits: dict[str, Any]) -> Float[Tensor, "Q P"]:
        pool = self.pool
        if name == "bm25":
            if self._bm25 is None:
                self._bm25 = BM25.of(pool)
            texts = [pool.queries.text(query) for query in relevant.queries.tolist()]
            return self._bm25.ranks(texts, relevant, **limits)
        vectors = nn.functional.normalize(pool.queries.features(relevant.queries).float(), dim=1).unsqueeze(1)
        scales = None if pool.normalized else inverse_norms(pool)
        return relevant.ranks(vectors, pool, inverse_norms=scales, **limits)[0]

    _bm25: BM25 | None = None
