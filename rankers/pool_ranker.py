"""PoolRanker: a ranker that embeds queries and ranks a whole pool by inner products; subclasses embed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from console.progress import WorkProgress
from rankers.base import Ranker
from rankers.pool_table import PoolTable
from rankers.references.pool_references import Baseline, PoolBaselines
from ranking.evaluation import Judged
from ranking.places import Places
from ranking.pool_batch import PoolBatch
from ranking.pool_evaluation import PoolEvaluation, PoolEvaluationState, Qrels, best
from ranking.stores.candidate_pool import CandidatePool
from ranking.vectors.search import WatchedPool
from registry import Node

RUN_DEPTH = 1000
"""How far down metrics look and a run file goes, as is the custom at TREC, unless a metric's k is larger."""

_GLANCE_DEPTH = 10  # candidates that are only looked at while training goes on


class PoolRanker(Ranker[PoolBatch]):
    """Validation and test of any ranker over a pool: vectors of the queries batch by batch, then one scan of the pool.

    A subclass writes `query_vectors`; where it gives several vectors a query, `judge_variants` says which of them
    counts. Baselines stand beside it: BM25 over the texts, and the frozen encoder's own vectors by cosine.
    """

    default_loss: ClassVar[Node] = "infonce"
    takes_shared_negatives: ClassVar[bool] = True
    ranks_pool: ClassVar[bool] = True

    normalize: bool = True
    """Whether candidates count as of length one."""

    baselines: list[Baseline]
    """Which baselines to compute."""

    _attached: CandidatePool | None = None
    _table: PoolTable | None = None
    _pool_baselines: PoolBaselines | None = None

    @property
    def pool(self) -> CandidatePool:
        """What is ranked: the run's pool, or the one attached."""
        return self._attached or self.trainer.datamodule.pool  # type: ignore[attr-defined]

    def attach(self, pool: CandidatePool) -> None:
        """Rank this pool, outside of any run."""
        self._attached = pool

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B V E"]:
        """V vectors a query, each of which ranks the pool by inner product."""
        raise TypeError(f"{type(self).__name__} does not say how to embed: write query_vectors(batch)")

    def judge_variants(self, places: Places, qrels: Qrels) -> tuple[int, dict[str, Places]]:
        """Which of V variants counts, whose places are `[V, Q, P]`, and the places of others worth reporting."""
        return 0, {}

    def collect(self) -> Metric:
        """What collects the queries' vectors."""
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
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        qrels, depth = Qrels.of(data.pool, queries), self._depth
        own, removed = data.restrictions(queries)
        limits = {"own": own, "removed": removed, "distributed": self.trainer.world_size > 1}
        given = {**limits, "inverse_norms": self.candidate_scales()}
        vectors = vectors.to(self.device)
        with self._scan(own) as pool:
            found = qrels.places(vectors, pool, **given).to_depth(depth)
        chosen, others = self.judge_variants(found, qrels)
        if self._pool_baselines is None or self._pool_baselines.table is not self._pool_table:
            self._pool_baselines = PoolBaselines(self._pool_table)
        baselines = self._pool_baselines.places(self.baselines, qrels, **limits)
        ours = Places(*(each[chosen] for each in found))
        scorers = {**{name: each.to_depth(depth) for name, each in baselines.items()}, **others, self._name: ours}
        shown = _GLANCE_DEPTH if self.trainer.state.fn == "fit" else depth
        with self._scan(own) as pool:
            top = best(vectors[:, chosen], pool, min(shown, data.pool.num_candidates), **given)
        return PoolEvaluation(self._name, qrels, scorers, *top)

    def candidates_to_rank(self) -> Any:
        """The pool, or its vectors in memory where they fit: on the GPU if there is one."""
        return self._pool_table.candidates

    def candidate_scales(self) -> Float[Tensor, " N"] | None:
        """One over each candidate's length; None where they all count as they are."""
        return self._pool_table.inverse_norms if self.normalize else None

    def progress(self, total: int, *, doing: str, done: str, unit: str) -> WorkProgress:
        """A bar or lines for a part of a validation or test, where the run shows any.

        Args:
            total: How much there is to do.
            doing: What is done.
            done: The same when it is over.
            unit: What is counted.
        """
        silent = self.trainer.progress_bar_callback is None or not self.trainer.is_global_zero
        return WorkProgress(total, doing=doing, done=done, unit=unit, brief=True, silent=silent)

    @contextmanager
    def _scan(self, own: Tensor | None) -> Iterator[Any]:
        """The candidates to rank, while it is shown how many of them are; only where queries rank the whole pool."""
        if own is not None:
            yield self.candidates_to_rank()
            return
        # Each process ranks a share.
        share = -(-self.pool.num_candidates // self.trainer.world_size)
        with self.progress(share, doing="Ranking", done="Ranked", unit="candidates") as shown:
            yield WatchedPool(self.candidates_to_rank(), shown.report)

    @property
    def _depth(self) -> int:
        """How far down the order metrics look."""
        return max(RUN_DEPTH, *(node.get("k") or 0 for node in self.description()["ranker"]["metrics"]))

    @property
    def _pool_table(self) -> PoolTable:
        if self._table is None or self._table.pool is not self.pool or self._table.device != self.device:
            self._table = PoolTable(self.pool, self.device)
        return self._table

    @property
    def _name(self) -> str:
        return self.description()["ranker"]["name"] or type(self).__name__
