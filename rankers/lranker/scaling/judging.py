"""ScaledJudging: judges with test-time scaling (LRanker, section 3.3) and the encoder's share, and chooses both."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from console.decimals import decimal
from rankers.judging.share_curve import ShareCurve
from rankers.judging.vectors import VectorJudging
from rankers.lranker.mixing import Mixing, mix
from rankers.lranker.scaling.grid import ScalingGrid
from rankers.lranker.scaling.scaling import Scaling, scale, scale_grid
from ranking.places import Places
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_evaluation import DIRECT, UNMIXED, PoolEvaluation, Qrels


class ScaledJudging(VectorJudging):
    """Judging with test-time scaling and the frozen encoder's share.

    During training, queries are ranked directly. The validation after training tries every width and depth, unless the
    options set them, then every share of the encoder with the best of these. What it chooses is used from then on, also
    after the ranker is saved and loaded.

    Args:
        ranker: An LRanker. Its `scaling` and `mixing` set what to try or to use, and receive the choice; its `grid` and
            `curve` receive the results.
        references: The rankers without weights that it is compared with, by name.
    """

    def __init__(self, ranker: Any, references: Mapping[str, Any]) -> None:
        super().__init__(ranker, references)
        self._shown: ExitStack | None = None
        self._count_contexts: Callable[[int], None] | None = None
        self._start: Tensor | None = None

    @property
    def tells_progress(self) -> bool:  # type: ignore[override]
        """True if queries are read many times: then progress counts contexts instead of batches."""
        return not self._ranks_directly

    def begin(self, split: str) -> None:
        """Start the progress display of scaling, or of the choice of its width and depth."""
        super().begin(split)
        if self._ranks_directly:
            return
        scaling, queries = self._scaling, len(self.data.queries(split))
        depth, widths, doing, done = scaling.depth, [scaling.width], "Scaling", "Read the queries in"
        if self._chooses:
            depth, widths, doing = scaling.max_depth, scaling.widths, "Choosing width and depth"
            done = "To choose width and depth, read the queries in"
            queries = min(queries, scaling.num_queries or queries)
        contexts = 1 + sum(width or 0 for width in widths) * (depth or 0)
        total = -(-queries * contexts // self.trainer.world_size)
        self._shown = ExitStack()
        shown = self._shown.enter_context(self.progress(total, doing=doing, done=done, unit="contexts"))
        self._count_contexts = shown.report

    def update(self, batch: PoolBatch) -> None:
        """Add one batch, or only those of its queries that the choice of scaling uses."""
        if self._chooses and (most := self._scaling.num_queries) is not None:
            queries = self.data.queries("val")
            some = queries[torch.linspace(0, len(queries) - 1, min(most, len(queries))).long()]
            kept = torch.isin(batch.group.cpu(), some).nonzero().flatten()
            batch = batch.only(kept.to(batch.group.device))
        super().update(batch)

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B V E"]:
        """Each query's direct embedding and, after training, the embedding of test-time scaling.

        Before width and depth are chosen, these are the vectors of every width and depth.
        """
        ranker = self.ranker
        if self._ranks_directly:
            return ranker.embed_batch(batch).unsqueeze(1)
        scaling = self._scaling
        given: dict[str, Any] = {
            "num_queries": len(batch.tokens),
            "keep": scaling.keep,
            "limit": scaling.limit,
            "seed": scaling.seed,
            "inverse_norms": ranker.candidate_scales(),
            "own": batch.own,
            "removed": batch.removed,
        }
        embed = ranker.embedder(batch.tokens, batch.lengths, self._count_contexts)
        sets = embed, ranker.candidates_to_rank(), ranker.aggregator, ranker.whole_contexts(batch)
        if self._chooses:
            return scale_grid(*sets, widths=scaling.widths, max_depth=scaling.max_depth, **given).flatten(1, 2)
        assert scaling.width is not None and scaling.depth is not None
        steps = scale(*sets, width=scaling.width, depth=scaling.depth, settled=scaling.settled, **given)
        return torch.stack([steps[:, 0], steps.mean(dim=1)], dim=1)

    def judge(self, split: str) -> PoolEvaluation:
        """The evaluation; prints the chosen width and depth if this validation chose them."""
        self.end_progress()
        chooses = self._chooses
        judged = super().judge(split)
        if chooses and (grid := self.ranker.grid) is not None:
            width, depth = grid.chosen
            best = f"{grid.metric} {decimal(float(grid.values.max()))}"
            with self.progress(0, doing="", done="", unit="") as shown:
                shown.say(f"Chose width {width} and depth {depth} of scaling: validation's highest {best}.")
        return judged

    def collected(self) -> Int[Tensor, " Q"]:
        """The queries that were collected; their vectors have the encoder's share once nothing is to be chosen."""
        queries = super().collected()
        self._start = self._vectors_of_encoder(queries)
        if self._start is not None and not self._chooses and (share := self.ranker.mixing.share) is not None:
            mixed = mix(self._vectors, self._start, share)
            # Direct ranking, if there is scaling; then the ranker without and with the share.
            self._vectors = torch.cat([mixed[:, :-1], self._vectors[:, -1:], mixed[:, -1:]], dim=1)
        return queries

    def places(self, qrels: Qrels) -> dict[str, Places]:
        """The places of the judged candidates, by the vector that validation chose or now chooses."""
        mixes_later = self._start is not None and (self._chooses or self.ranker.mixing.share is None)
        found = super().places(qrels)
        return self._mixed(found, qrels) if mixes_later else found

    def choose(self, places: Places, qrels: Qrels) -> tuple[int, dict[str, Places]]:
        """The chosen width and depth, with direct ranking and the ranker without the encoder's share beside it."""
        last, direct = len(places.above) - 1, Places(*(each[0] for each in places))
        if self._start is not None and not self._chooses and self.ranker.mixing.share is not None:
            unmixed = {UNMIXED: Places(*(each[last - 1] for each in places))}
            return last, unmixed if self._ranks_directly else {DIRECT: direct, **unmixed}
        if self._ranks_directly:
            return 0, {}
        if not self._chooses:
            return 1, {DIRECT: direct}
        scaling = self._scaling
        name, metric = next(iter(self.ranker.metrics.items()))
        variants = (Places(*each) for each in zip(*places, strict=True))
        means = torch.stack([qrels.value(metric, each).mean() for each in variants])
        grid = ScalingGrid(name, scaling.widths, means.view(len(scaling.widths), -1), len(qrels.queries))
        width, depth = grid.chosen
        self.ranker.grid, self.ranker.scaling = grid, dataclasses.replace(scaling, width=width, depth=depth)
        return grid.place, {DIRECT: direct}

    def _mixed(self, found: dict[str, Places], qrels: Qrels) -> dict[str, Places]:
        """Rank with the encoder's share, and choose it if it is not known; `found` are the places without it."""
        assert self._start is not None
        mixing: Mixing = self.ranker.mixing
        with_direct = DIRECT in found
        alone = self._vectors[:, [0, self._chosen] if with_direct else [self._chosen]]
        shares = mixing.tried if mixing.share is None else [0.0, mixing.share]
        self._vectors = torch.cat([mix(alone, self._start, share) for share in shares], dim=1)
        with self._scan() as pool:
            places = qrels.places(self._vectors, pool, **self._given).to_depth(self._depth)
        step = 1 + with_direct
        each = [Places(above, tied) for above, tied in zip(*places, strict=True)]
        direct, scaled = each[::step], each[step - 1 :: step]
        place = len(shares) - 1
        if mixing.share is None:
            name, metric = next(iter(self.ranker.metrics.items()))
            values = torch.stack([qrels.value(metric, one) for one in scaled])
            self.ranker.curve = curve = ShareCurve(name, shares, values, mixing.standard_errors)
            place = curve.place
            self.ranker.mixing = dataclasses.replace(mixing, share=shares[place])
        self._chosen = place * step + step - 1
        beside = {DIRECT: direct[place]} if with_direct else {}
        return {**beside, UNMIXED: scaled[0], self.ranker.name: scaled[place]}

    def _vectors_of_encoder(self, queries: Int[Tensor, " Q"]) -> Float[Tensor, "Q E"] | None:
        """The encoder's vectors of queries, where they are mixed in: not in training, nor where there are none."""
        ranker = self.ranker
        mixing: Mixing | None = ranker.mixing
        state = ranker.trainer.state.fn
        if mixing is None or state == "fit" or (mixing.share is None and state != "validate"):
            return None
        vectors = self.data.pool.queries.features(queries.cpu()).float().to(self._vectors.device)
        return vectors if bool(vectors.any()) else None

    def end_progress(self) -> None:
        """Remove the progress display, if there is one."""
        self._count_contexts = None
        if self._shown is not None:
            self._shown.close()

    @property
    def _scaling(self) -> Scaling:
        assert self.ranker.scaling is not None
        return self.ranker.scaling

    @property
    def _ranks_directly(self) -> bool:
        """Whether to rank without scaling: it is off, training goes on, or width and depth were never chosen."""
        ranker = self.ranker
        if ranker.scaling is None or (ranker._trainer is not None and ranker.trainer.state.fn == "fit"):
            return True
        return None in (ranker.scaling.width, ranker.scaling.depth) and not self._chooses

    @property
    def _chooses(self) -> bool:
        """Whether this validation, after training, has to choose the width and depth of scaling."""
        ranker = self.ranker
        if ranker.scaling is None or ranker._trainer is None or ranker.trainer.state.fn != "validate":
            return False
        return None in (ranker.scaling.width, ranker.scaling.depth)
