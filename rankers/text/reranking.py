"""Reranking: a first ranker finds the best candidates of a pool, and a ranker of texts orders these."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rankers.judging.pool import PoolJudging
from ranking.places import Places
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_evaluation import Qrels
from registry import RANKERS, ConfigError, Node
from registry.ranges import Few, Rank


@dataclass(frozen=True)
class Rerank:
    """Which candidates of a pool are read.

    Args:
        first: The ranker without weights that finds them, such as `bm25` or `encoder`.
        top: How many of its best candidates are read; the others keep its order below them.
        at_once: How many queries are read together.
    """

    first: Annotated[Node, RANKERS] = "encoder"
    top: Rank = 100
    at_once: Few = 1


class RerankJudging(PoolJudging):
    """Ranks the pool with a first ranker, then orders its best candidates by the scores of the run's own ranker.

    Args:
        ranker: A ranker of texts with `rerank` and `score(queries, candidates)`.
        references: The rankers without weights that it is compared with, by name.
    """

    def __init__(self, ranker: Any, references: Mapping[str, Any]) -> None:
        super().__init__(ranker, references)
        self._first: PoolJudging | None = None

    def begin(self, split: str) -> None:
        """Build the first ranker, once."""
        super().begin(split)
        if self._first is None:
            self._first = self._build_first()
        self._first.begin(split)

    def collect(self, batch: PoolBatch) -> None:
        """Rank the pool for one batch of queries with the first ranker."""
        self._known.collect(batch)

    def collected(self) -> Int[Tensor, " Q"]:
        """The queries that were collected."""
        self._queries = self._known.collected()
        return self._queries

    def places(self, qrels: Qrels) -> dict[str, Places]:
        """The places of the judged candidates: by the ranker's scores among the best, else by the first ranker."""
        first = list(self._known.places(qrels).values())[-1]
        depth = min(max(self._depth, self.ranker.rerank.top), self.data.pool.num_candidates)
        self._known_scores, self._rows = self._known.best(depth)
        self._scores = self._read(self._rows[:, : self.ranker.rerank.top])
        # What is read stands above what is not, even if the first ranker scores both the same.
        read = (self._scores > -torch.inf).sum(dim=1, keepdim=True)
        passed = (read - first.above).clamp(min=0)
        above, tied = first.above + passed, first.tied - passed
        for query in range(len(self._queries)):
            scores = self._scores[query]
            match = (qrels.rows[query].unsqueeze(1) == self._rows[query, : len(scores)]) & qrels.mask[query, :, None]
            judged, place = match.nonzero(as_tuple=True)
            own = scores[place].unsqueeze(1)
            above[query, judged] = (scores > own).sum(dim=1).to(above.dtype)
            tied[query, judged] = ((scores == own).sum(dim=1) - 1).to(tied.dtype)
        return {self.ranker.name: Places(above, tied)}

    def best(self, k: int) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
        """The best candidates; the scores of those that were not read continue the first ranker's order downwards."""
        read = self._scores.shape[1]
        order = self._scores.argsort(dim=1, descending=True, stable=True)
        rows = self._rows.clone()
        rows[:, :read] = self._rows[:, :read].gather(1, order)
        there = self._scores > -torch.inf
        lowest = torch.where(there, self._scores, torch.inf).amin(dim=1, keepdim=True)
        known = self._known_scores[:, read:]
        steps = torch.ones_like(known)
        steps[:, 1:] = (known[:, 1:] < known[:, :-1]).float()
        below = lowest - steps.cumsum(dim=1)
        scores = torch.cat([self._scores.gather(1, order), below], dim=1).masked_fill(rows < 0, -torch.inf)
        return scores[:, :k], rows[:, :k]

    @property
    def _known(self) -> PoolJudging:
        assert self._first is not None, "begin() was not called"
        return self._first

    def _build_first(self) -> PoolJudging:
        path = "ranker.rerank.first"
        node = RANKERS.complete(self.ranker.rerank.first, self.trainer.datamodule.facts, path)  # type: ignore[attr-defined]
        first: Any = RANKERS.build(node, path=path)
        judging = first.batch_and_judging(node)[1]
        if not issubclass(judging, PoolJudging) or first.is_trained:
            raise ConfigError(path, f"{first.name} does not rank a pool without training.", cure="bm25 or encoder")
        if (lacking := first.lacks(self.data)) is not None:
            raise ConfigError(path, f"{first.name} cannot be computed: {lacking}.", cure="another ranker")
        first.configure_model()
        first.trainer = self.trainer
        return judging(first.eval().to(self.ranker.device), {})

    def _read(self, rows: Int[Tensor, "Q top"]) -> Float[Tensor, "Q top"]:
        """The ranker's scores of each query's candidates, -inf where there is none; processes share the queries."""
        pool, strategy = self.data.pool, self.trainer.strategy
        found = torch.zeros(rows.shape, device=self.ranker.device)
        rank, world = self.trainer.global_rank, self.trainer.world_size
        # Equally many steps in each process, because the processes may share the weights as well.
        steps = range(rank, -(-len(rows) // world) * world, world)
        with (
            self.trainer.precision_plugin.forward_context(),
            self.progress(len(steps), doing="Reranking", done="Reranked", unit="queries") as progress,
        ):
            for start in range(0, len(steps), self.ranker.rerank.at_once):
                part = steps[start : start + self.ranker.rerank.at_once]
                known = {query: rows[query][rows[query] >= 0].tolist() for query in part if query < len(rows)}
                known = {query: each for query, each in known.items() if each}
                texts = [pool.queries.text(int(self._queries[query])) for query in known]
                scores = self.ranker.score(texts, [[pool.text(row) for row in each] for each in known.values()])
                for (query, each), own in zip(
                    known.items(), scores.split([len(each) for each in known.values()]), strict=True
                ):
                    found[query, : len(each)] = own
                progress.report(len(part))
        whole = strategy.reduce(found, reduce_op="sum")
        assert isinstance(whole, Tensor)
        if bool((broken := whole.isnan().any(dim=1)).any()):
            queries = self._queries[broken.cpu()].tolist()
            raise ValueError(f"{self.ranker.name} scored candidates of queries {queries[:5]} as nan")
        return whole.float().cpu().masked_fill(rows < 0, -torch.inf)
