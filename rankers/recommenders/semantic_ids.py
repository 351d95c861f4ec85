"""Semantic ids: items as short lists of codes, alike for items with similar vectors, by residual k-means."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ranking.vectors.search import AnyPool, as_pool

_SAMPLE = 100_000
"""So many items, drawn at random, place the centroids of a larger pool; the others only get the nearest ones."""


def residual_codes(pool: AnyPool, num_levels: int, num_codes: int, seed: int = 0) -> Int[Tensor, "N levels"]:
    """The codes of items by residual k-means, and a last code that tells items with the same codes apart.

    Each level clusters what the centroids of the levels before it leave of the vectors. Only a sample of the vectors
    and one block of them are in memory.

    Args:
        pool: The vectors of the items.
        num_levels: Number of levels of clusters.
        num_codes: Number of clusters in each level; fewer if there are fewer items.
        seed: The seed of the sample and of the first centroids.

    Raises:
        ValueError: If more than `num_codes` items have the same codes.
    """
    pool = as_pool(pool)
    drawn = torch.randperm(pool.num_candidates, generator=torch.Generator().manual_seed(seed))[:_SAMPLE]
    levels = _levels(_as_doubles(pool.features(drawn.sort().values)), num_levels, num_codes, seed)
    found = torch.cat([_nearest(levels, _as_doubles(block)) for block in pool.blocks()])
    _, group = found.unique(dim=0, return_inverse=True)
    order = group.argsort(stable=True)
    sizes = torch.bincount(group)
    if int(sizes.max()) > num_codes:
        raise ValueError(f"{int(sizes.max())} items have the same codes, and {num_codes} codes cannot tell them apart")
    last = torch.empty_like(group)
    last[order] = torch.arange(len(group)) - (sizes.cumsum(0) - sizes)[group[order]]
    return torch.cat([found, last.unsqueeze(1)], dim=1)


def _levels(rest: np.ndarray, num_levels: int, num_codes: int, seed: int) -> list[Any]:
    """The k-means of each level; `rest` becomes what all of them leave."""
    from sklearn.cluster import KMeans  # here, since it loads scipy

    levels = []
    for level in range(num_levels):
        # What is left may be equal for many items: k-means makes no more clusters than there are points.
        means = KMeans(min(num_codes, _num_different(rest)), random_state=seed + level)
        rest -= means.fit(rest).cluster_centers_[means.labels_]
        levels.append(means)
    return levels


def _nearest(levels: list[Any], rest: np.ndarray) -> Int[Tensor, "n levels"]:
    """The cluster of each vector in each level; `rest` becomes what all of them leave."""
    codes = []
    for means in levels:
        labels = means.predict(rest)
        codes.append(torch.from_numpy(labels).long())
        rest -= means.cluster_centers_[labels]
    return torch.stack(codes, dim=1)


def _as_doubles(vectors: Float[Tensor, "n D"]) -> np.ndarray:
    return vectors.cpu().to(torch.float64, copy=True).numpy()


def _num_different(points: Any) -> int:
    """The number of different rows of float64; a hash of each, because sorting whole rows is slow."""
    factors = np.random.default_rng(0).integers(1, 2**62, points.shape[1]) * 2 + 1
    return len(np.unique(points.view(np.int64) @ factors))


class CodeTree:
    """The tree of all items' codes: which codes may follow which prefix.

    Args:
        codes: The codes of each item, all different.
        num_codes: Number of codes in each level.
    """

    def __init__(self, codes: Int[Tensor, "N levels"], num_codes: int) -> None:
        self._num_codes = num_codes
        self._keys: list[Tensor] = []
        node = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
        for level in range(codes.shape[1]):
            keys, node = (node * num_codes + codes[:, level]).unique(return_inverse=True)
            self._keys.append(keys)
        self.rows = torch.empty_like(node)
        """The item of each leaf."""
        self.rows[node] = torch.arange(len(codes), device=codes.device)

    def children(self, level: int, nodes: Int[Tensor, "*n"]) -> tuple[Int[Tensor, "*n C"], Bool[Tensor, "*n C"]]:
        """For each node of a level, the node that each code leads to, and whether there is one."""
        wanted = nodes.unsqueeze(-1) * self._num_codes + torch.arange(self._num_codes, device=nodes.device)
        found = torch.searchsorted(self._keys[level], wanted).clamp(max=len(self._keys[level]) - 1)
        return found, self._keys[level][found] == wanted
