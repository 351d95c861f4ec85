"""ScaledRanker: a ranker over a pool that reads queries in parts of it, too; subclasses embed and summarise."""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from console.decimals import decimal
from rankers.lranker.aggregators import Aggregator
from rankers.lranker.query_embedder import QueryEmbedder
from rankers.lranker.scaling.grid import ScalingGrid
from rankers.lranker.scaling.scaling import Scaling, scale, scale_grid
from rankers.pool_ranker import PoolRanker
from ranking.evaluation import Judged
from ranking.places import Places
from ranking.pool_batch import Contexts, PoolBatch
from ranking.pool_evaluation import Qrels

DIRECT = "depth 0"
"""What a ranker is called without its scaling: in reports a part of it rather than a baseline."""


class ScaledRanker(PoolRanker):
    """Test-time scaling for any ranker that embeds queries in contexts (LRanker, section 3.3).

    During training, queries are ranked directly. The validation after it tries every width and depth, unless the
    options name them, and the best is what counts from then on, also for whoever loads the ranker.
    """

    aggregator: Aggregator | None
    """What summarises the candidates of a part; None where queries know nothing of them."""

    scaling: Scaling | None
    """What to try or to do; null for direct ranking."""

    grid: ScalingGrid | None = None
    """What validation found of each width and depth."""

    _shown: ExitStack | None = None
    _count_contexts: Callable[[int], None] | None = None

    def embedder(self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> QueryEmbedder:
        """What embeds these queries in any contexts, `[B, P, K, D]`, into `[B, P, E]`; without gradients."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to embed: write embedder(tokens, lengths)")

    def whole_contexts(self, batch: PoolBatch) -> Contexts:
        """The context of all candidates of each query."""
        raise NotImplementedError(f"{type(self).__name__} does not say what queries know: write whole_contexts(batch)")

    def embed_batch(self, batch: PoolBatch) -> Float[Tensor, "B E"]:
        """Each query's embedding in the context of all its candidates: scaling of depth 0."""
        whole = Contexts(*(each.unsqueeze(1) for each in self.whole_contexts(batch)))
        return self.embedder(batch.tokens, batch.lengths)(whole)[:, 0]

    def validation_step(self, batch: PoolBatch, batch_idx: int) -> None:
        """Keep the vectors of one batch, or of those of its queries that scaling is chosen on."""
        if self._chooses and (most := self.scaling.num_queries) is not None:  # type: ignore[union-attr]
            queries = self.trainer.datamodule.queries("val")  # type: ignore[attr-defined]
            some = queries[torch.linspace(0, len(queries) - 1, min(most, len(queries))).long()]
            kept = torch.isin(batch.group.cpu(), some).nonzero().flatten()
            batch = batch.only(kept.to(batch.group.device))
        super().validation_step(batch, batch_idx)

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B V E"]:
        """Each query's direct embedding and, after training, that of test-time scaling.

        While width and depth are still to be chosen, these are the vectors of every width and depth.
        """
        if self._ranks_directly:
            return self.embed_batch(batch).unsqueeze(1)
        scaling = self.scaling
        assert scaling is not None and self.aggregator is not None
        given: dict[str, Any] = {
            "num_queries": len(batch.tokens),
            "keep": scaling.keep,
            "limit": scaling.limit,
            "seed": scaling.seed,
            "inverse_norms": self.candidate_scales(),
            "own": batch.own,
            "removed": batch.removed,
        }
        embed = self._watched(self.embedder(batch.tokens, batch.lengths))
        sets = embed, self.candidates_to_rank(), self.aggregator, self.whole_contexts(batch)
        if self._chooses:
            return scale_grid(*sets, widths=self._widths, max_depth=self._max_depth, **given).flatten(1, 2)
        assert scaling.width is not None and scaling.depth is not None
        steps = scale(*sets, width=scaling.width, depth=scaling.depth, **given)
        return torch.stack([steps[:, 0], steps.mean(dim=1)], dim=1)

    def on_validation_epoch_start(self) -> None:
        """Show how far the choice of width and depth is, or the scaling that was chosen."""
        self._begin("val")

    def on_test_epoch_start(self) -> None:
        """Show how far scaling is."""
        self._begin("test")

    def judge(self, split: str) -> Judged:
        """As ever, once all queries are read."""
        self.end_progress()
        chooses = self._chooses
        judged = super().judge(split)
        if chooses and self.grid is not None:
            width, depth = self.grid.chosen
            best = f"{self.grid.metric} {decimal(float(self.grid.values.max()))}"
            with self.progress(0, doing="", done="", unit="") as shown:
                shown.say(f"Chose width {width} and depth {depth} of scaling: validation's highest {best}.")
        return judged

    @property
    def tells_progress(self) -> bool:
        """Where a query is read many times, contexts are counted rather than batches."""
        return not self._ranks_directly

    def end_progress(self) -> None:
        """Take the bar away, if there is one."""
        self._count_contexts = None
        if self._shown is not None:
            self._shown.close()

    def judge_variants(self, places: Places, qrels: Qrels) -> tuple[int, dict[str, Places]]:
        """The chosen width and depth, with direct ranking beside it."""
        if self._ranks_directly:
            return 0, {}
        direct = Places(*(each[0] for each in places))
        if not self._chooses:
            return 1, {DIRECT: direct}
        assert self.scaling is not None
        name, metric = next(iter(self.metrics.items()))
        variants = (Places(*each) for each in zip(*places, strict=True))
        means = torch.stack([qrels.value(metric, each).mean() for each in variants])
        values = means.view(len(self._widths), self._max_depth + 1)
        self.grid = ScalingGrid(name, self._widths, values, len(qrels.queries))
        width, depth = self.grid.chosen
        self.scaling = dataclasses.replace(self.scaling, width=width, depth=depth)
        return self.grid.place, {DIRECT: direct}

    def findings(self) -> dict[str, Any]:
        """The width and depth of scaling that validation has chosen, and what it chose among."""
        return {} if self.grid is None else {"scaling": self.grid.plain()}

    def description(self) -> dict[str, Any]:
        """As ever, with the width and depth that were chosen."""
        described = super().description()
        if self.scaling is not None:
            described["ranker"]["scaling"] = dataclasses.asdict(self.scaling)
        return described

    def _begin(self, split: str) -> None:
        if self._ranks_directly:
            return
        queries = len(self.trainer.datamodule.queries(split))  # type: ignore[attr-defined]
        assert self.scaling is not None
        depth, widths, doing, done = self.scaling.depth, [self.scaling.width], "Scaling", "Read the queries in"
        if self._chooses:
            depth, widths, doing = self._max_depth, self._widths, "Choosing width and depth"
            done = "To choose width and depth, read the queries in"
            queries = min(queries, self.scaling.num_queries or queries)
        contexts = 1 + sum(width or 0 for width in widths) * (depth or 0)
        total = -(-queries * contexts // self.trainer.world_size)
        self._shown = ExitStack()
        shown = self._shown.enter_context(self.progress(total, doing=doing, done=done, unit="contexts"))
        self._count_contexts = shown.report

    def _watched(self, embed: QueryEmbedder) -> QueryEmbedder:
        """The same, which counts the contexts it reads queries in."""
        if (count := self._count_contexts) is None:
            return embed

        def counted(contexts: Contexts) -> Float[Tensor, "B P E"]:
            found = embed(contexts)
            count(found.shape[0] * found.shape[1])
            return found

        return counted

    @property
    def _ranks_directly(self) -> bool:
        """Whether no scaling is to be done: there is none, training goes on, or it was never chosen."""
        if self.scaling is None or (self._trainer is not None and self.trainer.state.fn == "fit"):
            return True
        return None in (self.scaling.width, self.scaling.depth) and not self._chooses

    @property
    def _chooses(self) -> bool:
        """Whether the width and depth of scaling are still to be chosen, now that training is done."""
        scaling = self.scaling
        if scaling is None or self._trainer is None or self.trainer.state.fn != "validate":
            return False
        return None in (scaling.width, scaling.depth)

    @property
    def _widths(self) -> list[int]:
        assert self.scaling is not None
        return self.scaling.widths

    @property
    def _max_depth(self) -> int:
        assert self.scaling is not None
        return self.scaling.max_depth
