"""Fusion: ranks a pool by the weighted sum of the scores of several rankers."""

from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import MinLen
from jaxtyping import Float
from lightning import Trainer
from torch import Tensor

from rankers.base import Untrained
from rankers.checkpoint import load_ranker
from rankers.judging.fused import FusedJudging
from rankers.judging.judging import Judging
from rankers.judging.share_curve import ShareCurve
from rankers.judging.vectors import VectorJudging
from rankers.pool_ranker import POOL_METRICS, PoolRanker
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import Reading
from ranking.stores.joined_pool import DECIDES_VECTORS
from ranking.vectors.search import as_pool
from ranking.vectors.side_by_side import SideBySide, covariance
from registry import METRICS, RANKERS, ConfigError, Node
from registry.ranges import FilePath, Fraction, NonNegative


@RANKERS.register("fusion")
class Fusion(Untrained[PoolBatch], PoolRanker):
    """Fusion: score(q, c) = sum over rankers r of weight_r * score_r(q, c) / std_r(q).

    std_r(q) is the standard deviation of the scores that r gives to all candidates for q (Montague and Aslam 2001). As
    each score is an inner product <v, c>, std_r(q) = sqrt(v^T C v) with the covariance C of the candidates' vectors,
    and the weighted sum is one inner product as well: the pool is ranked in one scan.

    Nothing is trained. Validation chooses the weights: the first ranker starts, and each further one joins with the
    smallest share that is not worse than the best one by more than the standard error of their paired difference.

    Args:
        runs: Trained rankers, the first of all rankers first: folders of runs, checkpoints, folders of
            `save_pretrained`, or `user/name` on the hub. They must be of the pool that is ranked.
        rankers: Rankers without weights that follow them, such as `popularity`, `recency` and `encoder`.
        shares: The shares to try, besides 1, of the rankers before each further one.
        standard_errors: By how many standard errors a share may be worse than the best one; 0 for the best share.
        weights: The weight of each ranker; null to choose them on validation.
        metrics: The metrics that validation and test report; the first one chooses the weights.

    Raises:
        ConfigError: If there are fewer than two rankers, or one of them cannot be fused.
    """

    judging: ClassVar[type[Judging]] = FusedJudging
    normalize: bool = False

    weights: list[float] | None
    """The weight of each ranker; None before validation has chosen them."""

    curves: dict[str, ShareCurve]
    """The validation results of each share of the rankers before the one that is named."""

    def __init__(
        self,
        runs: list[FilePath] = [],  # noqa: B006
        rankers: list[Annotated[Node, RANKERS]] = [],  # noqa: B006
        shares: Annotated[list[Fraction], MinLen(1)] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],  # noqa: B006
        standard_errors: NonNegative = 1.0,
        weights: list[Fraction] | None = None,
        metrics: list[Annotated[Node, METRICS]] = POOL_METRICS,
    ) -> None:
        super().__init__(metrics=metrics)
        count = len(runs) + len(rankers)
        if count < 2:
            problem = f"there {'is' if count else 'are'} {count or 'none'} of the two or more rankers to fuse."
            raise ConfigError("ranker.runs", problem, cure="name them in ranker.runs and ranker.rankers")
        if weights is not None and len(weights) != count:
            raise ConfigError("ranker.weights", f"{len(weights)} weights for {count} rankers.", cure="one for each")
        self._runs, self._rankers = runs, rankers
        self.shares, self.standard_errors, self.weights = shares, standard_errors, weights
        self.curves = {}
        self._spreads: list[Tensor] = []

    @cached_property
    def fused(self) -> list[PoolRanker]:
        """The rankers in the order of their weights: those of runs first.

        Raises:
            ConfigError: If one does not score a pool by inner products, is a fusion, or would have to be trained.
        """
        found: list[tuple[str, Any]] = []
        for place, path in enumerate(self._runs):
            found.append((f"ranker.runs[{place}]", load_ranker(path)))
        for place, node in enumerate(self._rankers):
            found.append((f"ranker.rankers[{place}]", RANKERS.build(node, path=f"ranker.rankers[{place}]")))
        for place, (path, ranker) in enumerate(found):
            if isinstance(ranker, Fusion):
                raise ConfigError(path, "a fusion cannot be fused.", cure="name the rankers that it fuses")
            if place >= len(self._runs) and ranker.has_learnt:
                problem = f"{ranker.name} would have to be trained."
                raise ConfigError(path, problem, cure="the folder of its run, in ranker.runs")
            judging = ranker.batch_and_judging(ranker.description()["ranker"])[1]
            if not isinstance(ranker, PoolRanker) or not issubclass(judging, VectorJudging):
                problem = f"{ranker.name} does not score a pool by inner products of vectors."
                raise ConfigError(path, problem, cure="lranker, a recommender, popularity, recency or encoder")
        texts = [path for path, ranker in found if ranker.reading().queries is not None]
        if len(texts) > 1:
            problem = f"it reads queries as tokens, as {texts[0]} does, and a batch has those of one ranker."
            raise ConfigError(texts[1], problem, cure="leave one of them out")
        return [ranker.eval().requires_grad_(False) for _, ranker in found]

    @property
    def has_learnt(self) -> bool:
        """True, because a checkpoint holds the weights that validation chose."""
        return True

    @property
    def names(self) -> list[str]:
        """A name for each ranker: its registered name, with a number if it is there again."""
        names = [ranker.name for ranker in self.fused]
        places = [names[: place + 1].count(name) for place, name in enumerate(names)]
        return [name if place == 1 else f"{name} {place}" for name, place in zip(names, places, strict=True)]

    def configure_model(self) -> None:
        """Load the rankers; only the first call does this."""
        _ = self.fused

    def reading(self) -> Reading:
        """Read what one of the rankers reads of queries."""
        readings = [ranker.reading() for ranker in self.fused]
        text = next((each for each in readings if each.queries is not None), Reading())
        return Reading(text.queries, None, text.num_cut, histories=any(each.histories for each in readings))

    def lacks(self, data: Any) -> str | None:
        """Report a ranker that cannot rank this pool."""
        pool = data.pool
        for ranker, name in zip(self.fused, self.names, strict=True):
            num_items = getattr(ranker, "num_items", pool.num_candidates)
            if num_items != pool.num_candidates:
                return f"{name} knows {num_items:,} items, and the pool has {pool.num_candidates:,}"
            ours, theirs = ranker.encoder or {}, pool.encoder or {}
            if hasattr(ranker, "feature_dim") and any(ours.get(key) != theirs.get(key) for key in DECIDES_VECTORS):
                return f"{name} was trained on vectors of another encoder than the pool's"
            if (lacking := ranker.lacks(data)) is not None:
                return f"{name}: {lacking}"
        return None

    def bring(self, trainer: Trainer) -> list[int]:
        """Bring the rankers to this ranker's device and to the trainer's pool.

        Returns:
            The size of each ranker's vectors.
        """
        pool = self.pool
        if any(ranker._attached is not pool for ranker in self.fused):
            self._spreads = []
        for place, ranker in enumerate(self.fused):
            ranker.to(self.device)
            if place >= len(self._runs):
                # A trained ranker would choose its scaling again if it knew of a trainer that validates.
                ranker.trainer = trainer
            if ranker._attached is not pool:
                ranker.attach(pool)
        if not self._spreads:
            tables = [(ranker.candidates_to_rank(), ranker.candidate_scales()) for ranker in self.fused]
            self._spreads = [covariance(*table, self.device) for table in tables]
        return [len(spread) for spread in self._spreads]

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B 1 E"]:
        """The vectors of all rankers one after the other, each divided by the standard deviation of its scores."""
        start = self.pool.queries.features(batch.group.cpu()).float().to(self.device)
        parts = []
        for ranker, spread in zip(self.fused, self._spreads, strict=True):
            vectors = ranker.final_vectors(batch, start).float()
            variance = ((vectors @ spread) * vectors).sum(dim=1, keepdim=True)
            parts.append(torch.where(variance > 0, vectors / variance.clamp(min=0).sqrt(), 0))
        return torch.cat(parts, dim=1).unsqueeze(1)

    def candidates_to_rank(self) -> SideBySide:
        """The candidates' vectors of all rankers side by side."""
        pools = [as_pool(ranker.candidates_to_rank()) for ranker in self.fused]
        return SideBySide(pools, [ranker.candidate_scales() for ranker in self.fused], self.device)

    def description(self) -> dict[str, Any]:
        """The ranker's description, with the weights that validation chose."""
        described = super().description()
        described["ranker"]["weights"] = self.weights
        return described

    def findings(self) -> dict[str, Any]:
        """The weights, and the validation results of each share of the rankers before the one that is named."""
        weights = dict(zip(self.names, self.weights or [], strict=False))
        curves = {name: curve.plain() for name, curve in self.curves.items()}
        return {"fusion": {"weights": weights, "joined": curves}}
