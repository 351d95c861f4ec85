"""FusedJudging: judges a fusion beside each of its rankers, and chooses its weights on validation."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rankers.judging.share_curve import ShareCurve
from rankers.judging.vectors import VectorJudging
from ranking.places import Places
from ranking.pools.pool_evaluation import Qrels
from registry import ConfigError


class FusedJudging(VectorJudging):
    """Judging by the weighted sum of the scores of several rankers.

    The validation chooses the weights, unless the options set them. It starts with the first ranker alone. Then each
    further one joins with the share that the one standard error rule gives it: those before it keep the largest share
    whose metric is not worse than the best one by more than the standard error of their paired difference.

    Args:
        ranker: A Fusion. Its `weights` receive the choice, its `curves` the results.
        references: The rankers without weights that it is compared with, by name.
    """

    def __init__(self, ranker: Any, references: Mapping[str, Any]) -> None:
        super().__init__(ranker, references)
        self._sizes = torch.empty(0, dtype=torch.int64)

    def begin(self, split: str) -> None:
        """Bring the rankers to the run's device and pool."""
        super().begin(split)
        self._sizes = torch.tensor(self.ranker.bring(self.trainer))

    def collected(self) -> Int[Tensor, " Q"]:
        """The queries that were collected; each has the vectors of all rankers, one after the other."""
        queries = super().collected()
        self._joined = self._vectors[:, 0]
        return queries

    def places(self, qrels: Qrels) -> dict[str, Places]:
        """The places of the judged candidates by each ranker alone, and last by the fusion."""
        if self.ranker.weights is None:
            if self.trainer.state.fn != "validate":
                cure = "validate first, or set ranker.weights"
                raise ConfigError("ranker.weights", "they are not chosen yet.", cure=cure)
            self._choose(qrels)
        names, weights = self.ranker.names, torch.tensor(self.ranker.weights)
        found = self._places(torch.cat([torch.eye(len(names)), weights.unsqueeze(0)]), qrels)
        self._chosen = len(names)
        return dict(zip([*names, self.ranker.name], found, strict=True))

    def _choose(self, qrels: Qrels) -> None:
        """Let one ranker after the other join, with the best weights so far."""
        ranker = self.ranker
        name, metric = next(iter(ranker.metrics.items()))
        count = len(ranker.names)
        weights, ranker.curves = torch.eye(count)[0], {}
        shares = sorted({*ranker.shares, 1.0})
        for place in range(1, count):
            tried = torch.stack([share * weights + (1 - share) * torch.eye(count)[place] for share in shares])
            values = torch.stack([qrels.value(metric, each) for each in self._places(tried, qrels)])
            curve = ShareCurve(name, shares, values, ranker.standard_errors)
            ranker.curves[ranker.names[place]], weights = curve, tried[curve.place]
        ranker.weights = weights.tolist()

    def _places(self, weights: Float[Tensor, "W R"], qrels: Qrels) -> list[Places]:
        """The places by each row of weights, from one scan of the pool."""
        each = weights.repeat_interleave(self._sizes, dim=1).to(self._joined.device)
        self._vectors = self._joined.unsqueeze(1) * each
        with self._scan() as pool:
            found = qrels.places(self._vectors, pool, **self._given).to_depth(self._depth)
        return [Places(above, tied) for above, tied in zip(*found, strict=True)]
