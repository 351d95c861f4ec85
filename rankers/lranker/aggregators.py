"""Aggregators: summarise a set of candidates as K vectors of the same size as the candidates.

Most of them cluster the set and return the means of the clusters, the largest cluster first. An aggregator may have
trained weights: the `summarise` methods run once without gradients, and `forward` runs each time a query is read.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ranking.pools.pool_batch import Contexts
from ranking.vectors.clusters import cluster_sums, largest_first
from ranking.vectors.kmeans import kmeans, kmeans_rows
from ranking.vectors.search import AnyPool, as_pool
from registry import AGGREGATORS, ConfigError
from registry.ranges import Count, FeatureDim, Few, Width

_ROWS = 8192  # number of a pool's vectors that are read at once


class Aggregator(nn.Module):
    """Base of all aggregators: sets of n vectors of size D become K vectors each.

    Args:
        num_centroids: K, the number of centroids.
    """

    def __init__(self, num_centroids: int) -> None:
        super().__init__()
        self.num_centroids = num_centroids

    def summarise(self, vectors: Float[Tensor, "P n D"], mask: Bool[Tensor, "P n"], seed: int) -> Contexts:
        """Summarise P sets.

        Args:
            vectors: The candidates' vectors, padded to n per set.
            mask: True where a candidate exists.
            seed: The seed of all random choices.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot summarise sets")

    def summarise_rows(
        self, table: Float[Tensor, "N D"], rows: Int[Tensor, "P n"], mask: Bool[Tensor, "P n"], seed: int
    ) -> Contexts:
        """Summarise P sets, given as rows of a table."""
        found = [
            self.summarise(table[some[real]].unsqueeze(0), real[real].unsqueeze(0), seed)
            for some, real in zip(rows, mask, strict=True)
        ]
        return Contexts(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def summarise_pool(
        self, pool: AnyPool, rows: Int[Tensor, " n"] | None, seed: int, without: Int[Tensor, " W"] | None = None
    ) -> Contexts:
        """Summarise one large set. This version reads all its vectors into memory; subclasses may avoid that.

        Args:
            pool: The pool that contains the set.
            rows: The rows of the set; None for all rows.
            seed: The seed of all random choices.
            without: Rows that the centroids must not include; finding the clusters may use them.
        """
        pool = as_pool(pool)
        rows = torch.arange(pool.num_candidates) if rows is None else rows
        if without is not None:
            rows = rows[~torch.isin(rows, without)]
        return self.summarise(pool.features(rows).unsqueeze(0), torch.ones(1, len(rows), dtype=torch.bool), seed)

    def members(self, pool: AnyPool, rows: Int[Tensor, " n"] | None, seed: int) -> tuple[Contexts, Int[Tensor, " n"]]:
        """The context of a large set and the number of each row's centroid, in the given order; -1 for no centroid."""
        raise NotImplementedError(f"{type(self).__name__} cannot say which candidates a centroid stands for")

    def forward(self, contexts: Contexts) -> Float[Tensor, "P K D"]:
        """The vectors that the ranker reads: the centroids, unless a subclass overrides this."""
        return contexts.centroids


class Clustering(Aggregator):
    """Base of aggregators that assign each vector of a set to a cluster.

    Args:
        assign_dim: Only the first `assign_dim` dimensions are used; null for all.
    """

    def __init__(self, num_centroids: int, assign_dim: int | None) -> None:
        super().__init__(num_centroids)
        self.assign_dim = assign_dim

    def assign(self, points: Float[Tensor, "n d"], seed: int) -> Int[Tensor, " n"]:
        """The number of each point's cluster, at least 0 and less than K."""
        raise NotImplementedError

    @torch.no_grad()
    def summarise(self, vectors: Float[Tensor, "P n D"], mask: Bool[Tensor, "P n"], seed: int) -> Contexts:
        """The means of the clusters of P sets."""
        assignment = torch.full_like(mask, -1, dtype=torch.int64)
        for place, (some, real) in enumerate(zip(vectors, mask, strict=True)):
            if len(points := some[real]):
                assignment[place, real] = self.assign(points[:, : self.assign_dim].float(), seed)
        return _contexts(*cluster_sums(vectors, assignment, self.num_centroids))

    @torch.no_grad()
    def summarise_pool(
        self, pool: AnyPool, rows: Int[Tensor, " n"] | None, seed: int, without: Int[Tensor, " W"] | None = None
    ) -> Contexts:
        """The means of the clusters of a large set."""
        large = LargeSet(pool, rows, without)
        return large.means(self.clusters(large, seed), self.num_centroids)[0]

    @torch.no_grad()
    def members(self, pool: AnyPool, rows: Int[Tensor, " n"] | None, seed: int) -> tuple[Contexts, Int[Tensor, " n"]]:
        """The means of the clusters of a large set, and the cluster of each row."""
        large = LargeSet(pool, rows, None)
        contexts, member = large.means(self.clusters(large, seed), self.num_centroids)
        return contexts, large.as_given(member)

    def clusters(self, large: "LargeSet", seed: int) -> Int[Tensor, " n"]:
        """The cluster of each point of a large set; only the dimensions in use are in memory, not full vectors."""
        return self.assign(large.points(self.assign_dim), seed)


@AGGREGATORS.register("kmeans")
class KMeans(Clustering):
    """k-means (Eqs. 3-4), for many small sets at once or one large set.

    Args:
        assign_dim: Only the first `assign_dim` dimensions decide a candidate's cluster (Matryoshka); null for all.
        max_iterations: The most iterations of Lloyd's algorithm.
    """

    def __init__(self, num_centroids: Few = 20, assign_dim: FeatureDim | None = 128, max_iterations: Few = 20) -> None:
        super().__init__(num_centroids, assign_dim)
        self._options: dict[str, Any] = {"assign_dim": assign_dim, "max_iterations": max_iterations}

    def assign(self, points: Float[Tensor, "n d"], seed: int) -> Int[Tensor, " n"]:
        """The cluster of each point."""
        yes = torch.ones(1, len(points), dtype=torch.bool, device=points.device)
        return kmeans(points.unsqueeze(0), yes, self.num_centroids, **self._options, seed=seed).assignment[0]

    def summarise(self, vectors: Float[Tensor, "P n D"], mask: Bool[Tensor, "P n"], seed: int) -> Contexts:
        """The means of the clusters of P sets."""
        found = kmeans(vectors, mask, self.num_centroids, **self._options, seed=seed)
        return Contexts(found.centroids, found.mask)

    def summarise_rows(
        self, table: Float[Tensor, "N D"], rows: Int[Tensor, "P n"], mask: Bool[Tensor, "P n"], seed: int
    ) -> Contexts:
        """The means of the clusters of P sets, given as rows of a table."""
        found = kmeans_rows(table, rows, mask, self.num_centroids, **self._options, seed=seed)
        return Contexts(found.centroids, found.mask)


@AGGREGATORS.register("minibatch_kmeans")
class MiniBatchKMeans(Clustering):
    """Mini-batch k-means of scikit-learn (Sculley 2010), for pools that do not fit into memory.

    Args:
        assign_dim: Only the first `assign_dim` dimensions decide a candidate's cluster (Matryoshka); null for all.
        batch_size: Candidates per step.
        passes: How many times each candidate of a pool is read.
    """

    def __init__(
        self, num_centroids: Few = 20, assign_dim: FeatureDim | None = 128, batch_size: Count = 4096, passes: Few = 1
    ) -> None:
        super().__init__(num_centroids, assign_dim)
        self.batch_size, self.passes = batch_size, passes

    def assign(self, points: Float[Tensor, "n d"], seed: int) -> Int[Tensor, " n"]:
        """The cluster of each point of a set that is in memory."""
        from sklearn.cluster import MiniBatchKMeans

        if len(points) <= self.num_centroids:
            return torch.arange(len(points), device=points.device)
        model = MiniBatchKMeans(self.num_centroids, batch_size=self.batch_size, random_state=seed)
        return _labels(lambda array: model.fit(array).labels_, points)

    def clusters(self, large: "LargeSet", seed: int) -> Int[Tensor, " n"]:
        """The cluster of each point of a large set; one block at a time is in memory."""
        from sklearn.cluster import MiniBatchKMeans

        if len(large) <= max(self.num_centroids, self.batch_size):
            return super().clusters(large, seed)
        model = MiniBatchKMeans(self.num_centroids, random_state=seed)
        draw = torch.Generator().manual_seed(seed)
        # Neighbouring rows may be similar, so the first centroids come from rows spread over the pool.
        start = torch.randperm(len(large), generator=draw)[: self.batch_size].sort().values
        model.partial_fit(_array(large.vectors(start)[:, : self.assign_dim]))
        for _ in range(self.passes):
            for first in torch.randperm(-(-len(large) // self.batch_size), generator=draw).tolist():
                places = torch.arange(first * self.batch_size, min((first + 1) * self.batch_size, len(large)))
                model.partial_fit(_array(large.vectors(places)[:, : self.assign_dim]))
        return torch.cat([_labels(model.predict, block[:, : self.assign_dim]) for _, block in large.blocks()])


@AGGREGATORS.register("hierarchical")
class Hierarchical(Clustering):
    """Agglomerative clustering with Ward's linkage, by scikit-learn (the paper's E.1).

    Its cost is quadratic in the number of candidates.

    Args:
        assign_dim: Only the first `assign_dim` dimensions decide a candidate's cluster (Matryoshka); null for all.
        max_points: The largest set that is accepted; the distances of 20,000 candidates take 1.6 GB.
    """

    def __init__(
        self, num_centroids: Few = 20, assign_dim: FeatureDim | None = 128, max_points: Count = 20_000
    ) -> None:
        super().__init__(num_centroids, assign_dim)
        self.max_points = max_points

    def assign(self, points: Float[Tensor, "n d"], seed: int) -> Int[Tensor, " n"]:
        """The cluster of each point; the seed is not used."""
        from sklearn.cluster import AgglomerativeClustering

        if len(points) <= self.num_centroids:
            return torch.arange(len(points), device=points.device)
        if len(points) > self.max_points:
            problem = f"hierarchical clustering of {len(points):,} candidates needs the distances of all pairs, "
            problem += f"{len(points) ** 2 * 4 / 1e9:,.0f} GB; {self.max_points:,} candidates are the most it takes."
            raise ConfigError("ranker.aggregator", problem, cure="use kmeans, or more partitions that are smaller")
        return _labels(lambda array: AgglomerativeClustering(self.num_centroids).fit(array).labels_, points)


@AGGREGATORS.register("pca_kmeans")
class PcaKMeans(KMeans):
    """k-means on the principal components of each set (the paper's E.1); centroids are means of the full vectors.

    Args:
        num_components: Number of principal components that decide a candidate's cluster.
    """

    def __init__(self, num_centroids: Few = 20, num_components: Width = 256, max_iterations: Few = 20) -> None:
        super().__init__(num_centroids, None, max_iterations)
        self.num_components = num_components

    def assign(self, points: Float[Tensor, "n d"], seed: int) -> Int[Tensor, " n"]:
        """The cluster of each point."""
        axes = _principal_axes([points], self.num_components)
        return super().assign(points @ axes, seed)

    summarise = Clustering.summarise
    summarise_rows = Aggregator.summarise_rows

    def clusters(self, large: "LargeSet", seed: int) -> Int[Tensor, " n"]:
        """The cluster of each point of a large set; only the principal components are in memory."""
        axes = _principal_axes((block for _, block in large.blocks()), self.num_components)
        return super().assign(torch.cat([block.float() @ axes for _, block in large.blocks()]), seed)


@AGGREGATORS.register("set_encoder")
class SetEncoder(Aggregator):
    """K candidates drawn at random, summarised by K learned vectors through cross-attention (the paper's E.1).

    The layer is pooling by multi-head attention (Lee et al. 2019, "Set Transformer"): S + Attention(S, Z, Z).

    Args:
        feature_dim: Size D of the vectors.
        num_heads: Number of attention heads; must divide `feature_dim`.
    """

    def __init__(self, feature_dim: FeatureDim, num_centroids: Few = 20, num_heads: Width = 8) -> None:
        super().__init__(num_centroids)
        if num_heads < 1 or feature_dim % num_heads:
            raise ValueError(f"num_heads ({num_heads}) must divide the size of the vectors ({feature_dim})")
        self.slots = nn.Parameter(torch.randn(num_centroids, feature_dim) / feature_dim**0.5)
        self.norm = nn.LayerNorm(feature_dim)
        self.attention = nn.MultiheadAttention(feature_dim, num_heads, batch_first=True)

    @torch.no_grad()
    def summarise(self, vectors: Float[Tensor, "P n D"], mask: Bool[Tensor, "P n"], seed: int) -> Contexts:
        """Draw K candidates of each of P sets."""
        place, kept = self._draw(mask, seed)
        found = vectors.new_zeros(*kept.shape, vectors.shape[2], dtype=torch.float32)
        at = kept.nonzero(as_tuple=True)
        found[at] = vectors[at[0], place[at]].float()
        return Contexts(found, kept)

    @torch.no_grad()
    def summarise_rows(
        self, table: Float[Tensor, "N D"], rows: Int[Tensor, "P n"], mask: Bool[Tensor, "P n"], seed: int
    ) -> Contexts:
        """Draw K candidates of each of P sets, given as rows of a table."""
        place, kept = self._draw(mask, seed)
        found = table.new_zeros(*kept.shape, table.shape[1], dtype=torch.float32)
        at = kept.nonzero(as_tuple=True)
        found[at] = table[rows[at[0], place[at]]].float()
        return Contexts(found, kept)

    @torch.no_grad()
    def summarise_pool(
        self, pool: AnyPool, rows: Int[Tensor, " n"] | None, seed: int, without: Int[Tensor, " W"] | None = None
    ) -> Contexts:
        """Draw K candidates of a large set."""
        large = LargeSet(pool, rows, without)
        place, kept = self._draw(large.shown().unsqueeze(0), seed)
        found = large.vectors(place[0][kept[0]]).float()
        return Contexts(F.pad(found, (0, 0, 0, self.num_centroids - len(found))).unsqueeze(0), kept)

    @torch.no_grad()
    def members(self, pool: AnyPool, rows: Int[Tensor, " n"] | None, seed: int) -> tuple[Contexts, Int[Tensor, " n"]]:
        """Draw K candidates of a large set; each of them is its own centroid."""
        large = LargeSet(pool, rows, None)
        place, kept = self._draw(large.shown().unsqueeze(0), seed)
        drawn = place[0][kept[0]]
        member = torch.full((len(large),), -1).index_put((drawn,), torch.arange(len(drawn)))
        return self.summarise_pool(pool, rows, seed), large.as_given(member)

    def forward(self, contexts: Contexts) -> Float[Tensor, "P K D"]:
        """Apply the cross-attention of K learned vectors to the candidates drawn."""
        empty = ~contexts.mask.any(dim=1, keepdim=True)
        vectors, slots = self.norm(contexts.centroids), self.slots.expand(len(contexts.centroids), -1, -1)
        heard, _ = self.attention(
            slots, vectors, vectors, key_padding_mask=~(contexts.mask | empty), need_weights=False
        )
        return slots + heard

    def _draw(self, mask: Bool[Tensor, "P n"], seed: int) -> tuple[Int[Tensor, "P K"], Bool[Tensor, "P K"]]:
        """The places of K different candidates of each set, and whether each of them exists."""
        draw = torch.Generator().manual_seed(seed)
        chance = torch.rand(mask.shape[1], generator=draw).to(mask.device).expand(mask.shape).masked_fill(~mask, -1)
        missing = max(0, self.num_centroids - mask.shape[1])
        found = chance.topk(self.num_centroids - missing, dim=1)
        return F.pad(found.indices, (0, missing)), F.pad(found.values >= 0, (0, missing))


class LargeSet:
    """Some rows of a pool, read block by block."""

    def __init__(self, pool: AnyPool, rows: Int[Tensor, " n"] | None, without: Int[Tensor, " W"] | None) -> None:
        self._pool, self._without = as_pool(pool), without
        self._rows, self._order = (None, None) if rows is None else rows.cpu().sort()

    def __len__(self) -> int:
        return self._pool.num_candidates if self._rows is None else len(self._rows)

    def vectors(self, places: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """The vectors at some places of the set."""
        return self._pool.features(places if self._rows is None else self._rows[places])

    def blocks(self) -> Iterator[tuple[int, Float[Tensor, "n D"]]]:
        """All vectors in order, block by block, each with the place of its first vector."""
        if self._rows is None:
            blocks = self._pool.blocks(size=_ROWS)
        else:
            blocks = map(self._pool.features, self._rows.split(_ROWS))
        first = 0
        for block in blocks:
            yield first, block
            first += len(block)

    def points(self, dim: int | None) -> Float[Tensor, "n d"]:
        """The first dimensions of all vectors."""
        found = None
        for first, block in self.blocks():
            found = torch.empty(len(self), block[:, :dim].shape[1], device=block.device) if found is None else found
            found[first : first + len(block)] = block[:, :dim]
        return torch.empty(0, 0) if found is None else found

    def as_given(self, values: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Reorder one value per row to the order in which the rows were given."""
        return values if self._order is None else torch.empty_like(values).index_copy_(0, self._order, values)

    def shown(self) -> Bool[Tensor, " n"]:
        """False at the places of rows that the centroids must not include."""
        shown = torch.ones(len(self), dtype=torch.bool)
        if self._without is not None:
            rows = torch.arange(len(self)) if self._rows is None else self._rows
            shown &= ~torch.isin(rows, self._without.cpu())
        return shown

    def means(self, assignment: Int[Tensor, " n"], num_centroids: int) -> tuple[Contexts, Int[Tensor, " n"]]:
        """The means of the clusters, and the cluster of each point; -1 for points the means must not include."""
        assignment = assignment.masked_fill(~self.shown().to(assignment.device), -1).unsqueeze(0)
        parts = [
            cluster_sums(block.unsqueeze(0), assignment[:, first : first + len(block)], num_centroids)
            for first, block in self.blocks()
        ]
        if not parts:
            raise ValueError("a set of no candidates has no clusters")
        sums, sizes = (functools.reduce(torch.add, each) for each in zip(*parts, strict=True))
        found = largest_first(sums, sizes, assignment)
        return Contexts(found.centroids, found.mask), found.assignment[0]


def _contexts(sums: Float[Tensor, "P K D"], sizes: Int[Tensor, "P K"]) -> Contexts:
    found = largest_first(sums, sizes, sizes.new_empty(len(sizes), 0))
    return Contexts(found.centroids, found.mask)


def _labels(cluster: Callable[[np.ndarray], Any], points: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
    """Cluster the points with scikit-learn."""
    return torch.from_numpy(cluster(_array(points))).long().to(points.device)


def _array(points: Float[Tensor, "n d"]) -> np.ndarray:
    return points.float().cpu().numpy()


def _principal_axes(blocks: Iterable[Float[Tensor, "_ D"]], num_components: int) -> Float[Tensor, "D d"]:
    """The directions of largest variance, computed from the covariance of the vectors."""
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for block in blocks:
        block = block.double()
        count, total, products = count + len(block), total + block.sum(dim=0), products + block.T @ block
    mean = total / count
    covariance = products / count - torch.outer(mean, mean)
    return torch.linalg.eigh(covariance).eigenvectors[:, -num_components:].flip(1).float()
