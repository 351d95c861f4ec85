"""PoolJudging: the common base of all ways to judge a ranker over a whole pool."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning import Trainer
from torch import Tensor

from console.progress import WorkProgress
from rankers.judging.judging import RUN_DEPTH, Judging
from ranking.places import Places
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import PoolData
from ranking.pools.pool_evaluation import PoolEvaluation, Qrels, ragged

_GLANCE_DEPTH = 10  # number of top candidates kept per query during training, for display only


class PoolJudging(Judging):
    """Finds the rank of each query's judged candidates in the ranker's order of the pool.

    References rank each query only once per run, because the results of a ranker without weights do not change.

    Args:
        ranker: The ranker to judge.
        references: The rankers without weights that it is compared with, by name.
    """

    keeps_best: bool = True
    """Whether to keep the best candidates; a reference needs only the places of the judged candidates."""

    def __init__(self, ranker: Any, references: Mapping[str, Any]) -> None:
        super().__init__(ranker, references)
        self._beside = {name: _Remembered(reference.judging(reference, {})) for name, reference in references.items()}

    @property
    def trainer(self) -> Trainer:
        """The run's trainer."""
        return self.ranker.trainer

    @property
    def data(self) -> PoolData:
        """The run's pool and queries."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @abstractmethod
    def collect(self, batch: PoolBatch) -> None:
        """Add one batch of queries for the ranker, without its references."""

    @abstractmethod
    def collected(self) -> Int[Tensor, " Q"]:
        """The queries that all processes collected, each once, ascending; then reset the collection."""

    @abstractmethod
    def places(self, qrels: Qrels) -> dict[str, Places]:
        """The places of the collected queries' judged candidates, `[Q, P]`; the ranker's own places come last."""

    @abstractmethod
    def best(self, k: int) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
        """The k highest scores of each collected query and their rows, best first; -1 where there are fewer."""

    def update(self, batch: PoolBatch) -> None:
        """Add one batch of queries, for the ranker and its references."""
        self.collect(batch)
        for beside in self._beside.values():
            beside.update(batch)

    def judge(self, split: str) -> PoolEvaluation:
        """The places and the best candidates of all queries."""
        pool, depth = self.data.pool, self._depth
        qrels = Qrels.of(pool, self.collected())
        ours = self.places(qrels)
        theirs = {name: beside.places(qrels) for name, beside in self._beside.items()}
        shown = min(_GLANCE_DEPTH if self.trainer.state.fn == "fit" else depth, pool.num_candidates)
        found = {name: each.to_depth(depth) for name, each in {**theirs, **ours}.items()}
        return PoolEvaluation(self.ranker.name, qrels, found, *self.best(shown))

    def progress(self, total: int, *, doing: str, done: str, unit: str) -> WorkProgress:
        """A progress bar or progress lines for one part of a validation or test, if the run shows progress.

        Args:
            total: How many units of work there are.
            doing: What to print while the work is in progress.
            done: What to print when the work is finished.
            unit: The name of one unit of work.
        """
        silent = self.trainer.progress_bar_callback is None or not self.trainer.is_global_zero
        return WorkProgress(total, doing=doing, done=done, unit=unit, brief=True, silent=silent)

    @property
    def _depth(self) -> int:
        """How many of the best candidates per query the metrics need."""
        return max(RUN_DEPTH, *(node.get("k") or 0 for node in self.ranker.description()["ranker"]["metrics"]))


class _Remembered:
    """The places that a reference gives to judged candidates, computed once per query.

    Args:
        judging: The judging of the reference.
    """

    def __init__(self, judging: PoolJudging) -> None:
        self._judging = judging
        judging.keeps_best = False
        self._forget()

    def _forget(self) -> None:
        self._pool, self._has_new = None, False
        none = torch.empty(0, dtype=torch.float64)
        self._queries = self._counts = torch.empty(0, dtype=torch.int64)
        self._places = Places(none, none)

    def update(self, batch: PoolBatch) -> None:
        """Add those queries of a batch whose places are not known yet."""
        if self._judging.data.pool is not self._pool:
            self._forget()
            self._pool = self._judging.data.pool
        new = ~torch.isin(batch.group.cpu(), self._queries)
        # Collect even an empty batch: all processes must gather tensors of the same shape.
        self._judging.collect(batch.only(new.nonzero().flatten().to(batch.group.device)))
        self._has_new |= bool(new.any())

    def places(self, qrels: Qrels) -> Places:
        """The places of the judged candidates, `[Q, P]`."""
        judging = self._judging
        has_new = judging.trainer.strategy.reduce_boolean_decision(self._has_new, all=False)
        queries = judging.collected()
        if has_new:
            self._remember(Qrels.of(judging.data.pool, queries))
        found = Places.nowhere(*qrels.mask.shape)
        offsets = torch.nn.functional.pad(self._counts.cumsum(0), (1, 0))
        index = torch.searchsorted(self._queries, qrels.queries)
        for target, values in zip(found, self._places, strict=True):
            of, value, place = ragged(offsets, values, index)
            target[of, place] = value
        return found

    def _remember(self, qrels: Qrels) -> None:
        found = list(self._judging.places(qrels).values())[-1]
        new = ~torch.isin(qrels.queries, self._queries)
        queries = torch.cat([self._queries, qrels.queries[new]])
        counts = torch.cat([self._counts, qrels.mask[new].sum(dim=1)])
        flat = [torch.cat([old, values[new][qrels.mask[new]]]) for old, values in zip(self._places, found, strict=True)]
        order = queries.argsort()
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        self._places = Places(*(ragged(offsets, values, order)[1] for values in flat))
        self._queries, self._counts, self._has_new = queries[order], counts[order], False
