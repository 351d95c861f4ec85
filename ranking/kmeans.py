"""K-means: many small clusterings at once, or one large one, on tensors (Eqs. 3-5 of the LRanker paper).

k-means++ seeding with a few candidates a step (Arthur and Vassilvitskii 2007), then Lloyd's iterations until no
centroid moves. Assignments may look at the first dimensions only (Matryoshka embeddings); centroids are means of full
vectors.

Sets do not influence one another: a set gets the same clusters alone and beside others.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ranking.clusters import Clustering, cluster_sums, largest_first
from ranking.products import full_precision, products

_CACHED = 2**19  # numbers of points that stay in a processor's cache
_MEMORY = 2**28  # likewise, on a GPU
_SEEDING_POINTS = 256  # points a centroid that seeding looks at, at most
_NOISE = 2e-6  # squared distances below this share of the squared lengths are rounding


def kmeans(
    vectors: Float[Tensor, "P n D"],
    mask: Bool[Tensor, "P n"],
    num_centroids: int,
    *,
    assign_dim: int | None = None,
    max_iterations: int = 20,
    seed: int = 0,
) -> Clustering:
    """Cluster each of P sets.

    Args:
        vectors: Of the points.
        mask: True where a point exists.
        num_centroids: K.
        assign_dim: How many of the first dimensions say which cluster a point is in; null for all.
        max_iterations: Assignments at the most.
        seed: Of the seeding.

    Raises:
        ValueError: If K or another number is below 1.

    >>> found = kmeans(torch.tensor([[[0.0], [9.0], [1.0], [2.0]]]), torch.ones(1, 4, dtype=torch.bool), 2)
    >>> found.centroids.flatten(), found.assignment
    (tensor([1., 9.]), tensor([[0, 1, 0, 0]]))
    """
    return _cluster(
        lambda sets, points, dim: vectors[sets, points, :dim].float(),
        vectors.shape[2],
        mask,
        num_centroids,
        assign_dim,
        max_iterations,
        seed,
    )


def kmeans_rows(
    table: Float[Tensor, "N D"],
    rows: Int[Tensor, "P n"],
    mask: Bool[Tensor, "P n"],
    num_centroids: int,
    *,
    assign_dim: int | None = None,
    max_iterations: int = 20,
    seed: int = 0,
) -> Clustering:
    """As `kmeans` of `table[rows]`, without holding all of these vectors.

    Args:
        table: Vectors that the sets share.
        rows: Those of each set; what stands where the mask is False does not matter.
        mask: True where a point exists.
        num_centroids: K.
        assign_dim: How many of the first dimensions say which cluster a point is in; null for all.
        max_iterations: Assignments at the most.
        seed: Of the seeding.
    """
    rows = torch.where(mask, rows, 0)

    def points_of(sets: slice, points: slice, dim: int | None) -> Float[Tensor, "p m d"]:
        some = rows[sets, points]
        return table[:, :dim].index_select(0, some.flatten()).float().unflatten(0, some.shape)

    return _cluster(points_of, table.shape[1], mask, num_centroids, assign_dim, max_iterations, seed)


def _cluster(
    points_of: Callable[[slice, slice, int | None], Tensor],
    feature_dim: int,
    mask: Bool[Tensor, "P n"],
    num_centroids: int,
    assign_dim: int | None,
    max_iterations: int,
    seed: int,
) -> Clustering:
    """Cluster group by group of sets, each group as large as can be worked on fast."""
    for name, value in (("num_centroids", num_centroids), ("max_iterations", max_iterations)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if assign_dim is not None and assign_dim < 1:
        raise ValueError(f"assign_dim must be at least 1, or null for all dimensions, not {assign_dim}")
    num_sets, num_points = mask.shape
    dim = min(assign_dim or feature_dim, feature_dim)
    draws = torch.rand(_num_draws(num_centroids), generator=torch.Generator().manual_seed(seed)).to(mask.device)
    budget = _CACHED if mask.device.type == "cpu" else _MEMORY
    size = max(1, budget // max(1, num_points * dim))
    parts = []
    for first in range(0, num_sets, size):
        sets = slice(first, first + size)
        with torch.no_grad(), full_precision(mask.device):
            lloyd = _Lloyd(points_of(sets, slice(None), dim), mask[sets], num_centroids, budget // dim)
            lloyd.seed(draws)
            lloyd.run(max_iterations)
            sums = lloyd.sums if dim == feature_dim else _full_sums(points_of, sets, lloyd, budget // feature_dim)
            parts.append(largest_first(sums, lloyd.sizes, lloyd.assignment))
    return Clustering(*(torch.cat(each) for each in zip(*parts, strict=True)))


class _Lloyd:
    """Clustering of a group of p sets, in the dimensions that say which cluster a point is in."""

    def __init__(
        self, points: Float[Tensor, "p n d"], mask: Bool[Tensor, "p n"], num_centroids: int, block_size: int
    ) -> None:
        self.points, self.mask, self.num_centroids = points, mask, num_centroids
        starts = range(0, points.shape[1], max(1, block_size))
        self.blocks = [slice(start, start + max(1, block_size)) for start in starts] or [slice(0, 0)]
        self.squares = points.square().sum(dim=2) * (1 - _NOISE)
        self.wanted = torch.arange(num_centroids, device=mask.device) < mask.sum(dim=1, keepdim=True)
        self.gone = ~self.wanted
        self.centroids = self.sums = points.new_zeros(len(points), num_centroids, points.shape[2])
        self.sizes = torch.zeros(self.gone.shape, dtype=torch.int64, device=mask.device)
        self.assignment = torch.zeros_like(mask, dtype=torch.int64)

    def seed(self, draws: Float[Tensor, " T"]) -> None:
        """Choose points as first centroids: each the best of a few, drawn by their squared distance to the others."""
        points, squares, weight = _sample(self.points, self.squares, self.mask, self.num_centroids, draws)
        each = torch.arange(len(points), device=points.device)
        nearest = weight
        trials = _num_trials(self.num_centroids)
        transposed = points.transpose(1, 2)
        for slot in range(self.num_centroids):
            some = draws[slot * trials : (slot + 1) * trials]
            place = _drawn(nearest, some)
            chosen = points[each.unsqueeze(1), place]
            square = squares[each.unsqueeze(1), place]
            distance = torch.baddbmm(squares.unsqueeze(1) + square.unsqueeze(2), chosen, transposed, alpha=-2)
            distance = distance.clamp_(min=0) * weight.unsqueeze(1)
            left = torch.minimum(distance, nearest.unsqueeze(1)) if slot else distance
            best = left.sum(dim=2).argmin(dim=1)
            nearest = left[each, best]
            self.centroids[:, slot] = chosen[each, best]

    def run(self, max_iterations: int) -> None:
        """Assign points and move centroids until these stand still."""
        for _ in range(max_iterations):
            nearest = self._assign()
            self._add_up()
            if bool((missing := (self.sizes == 0) & self.wanted).any()):
                self._repair(missing, nearest)
            before, self.centroids = self.centroids, self.sums / self.sizes.clamp(min=1).unsqueeze(2)
            if torch.equal(before, self.centroids):
                break

    def _assign(self) -> Float[Tensor, "p n"]:
        """Give each point its nearest centroid; returns the squared distances, 0 where they are rounding."""
        squares = self.centroids.square().sum(dim=2).masked_fill_(self.gone, torch.inf)
        nearest = torch.empty_like(self.squares)
        for places in self.blocks:
            points = self.points[:, places]
            if len(points) == 1:
                scores = products(points[0], -2 * self.centroids[0], squares[0]).T.unsqueeze(0)
            else:
                scores = torch.baddbmm(squares.unsqueeze(2), self.centroids, points.transpose(1, 2), alpha=-2)
            torch.min(scores, dim=1, out=(nearest[:, places], self.assignment[:, places]))
        self.assignment.masked_fill_(~self.mask, -1)
        return (nearest + self.squares).clamp_(min=0)

    def _add_up(self) -> None:
        """The sum of the points of each cluster, and how many these are."""
        parts = [
            cluster_sums(self.points[:, places], self.assignment[:, places], self.num_centroids)
            for places in self.blocks
        ]
        self.sums, self.sizes = parts[0]
        for sums, sizes in parts[1:]:
            self.sums += sums
            self.sizes += sizes

    def _repair(self, missing: Bool[Tensor, "p K"], distance: Float[Tensor, "p n"]) -> None:
        """Make the points that are farthest from their centroids clusters of their own, as scikit-learn does."""
        for place in missing.any(dim=1).nonzero().flatten().tolist():
            slots = missing[place].nonzero().flatten().tolist()
            far = (distance[place] * self.mask[place]).sort(descending=True, stable=True)
            for point in far.indices[far.values > 0].tolist():
                old = int(self.assignment[place, point])
                if not slots:
                    break
                if self.sizes[place, old] == 1:
                    continue
                new, vector = slots.pop(), self.points[place, point]
                self.sums[place, old] -= vector
                self.sums[place, new] = vector
                self.sizes[place, old] -= 1
                self.sizes[place, new] = 1
                self.assignment[place, point] = new
        self.gone = self.sizes == 0


def _full_sums(
    points_of: Callable[[slice, slice, int | None], Tensor], sets: slice, lloyd: _Lloyd, size: int
) -> Float[Tensor, "p K D"]:
    """The sums of full vectors."""
    parts = []
    for first in range(0, lloyd.assignment.shape[1], max(size, 1)):
        places = slice(first, first + max(size, 1))
        vectors = points_of(sets, places, None)
        parts.append(cluster_sums(vectors, lloyd.assignment[:, places], lloyd.num_centroids)[0])
    return sum(parts[1:], parts[0])


def _num_trials(num_centroids: int) -> int:
    return 2 + int(math.log(num_centroids))


def _num_draws(num_centroids: int) -> int:
    return num_centroids * (_num_trials(num_centroids) + _SEEDING_POINTS)


def _sample(
    points: Float[Tensor, "p n d"],
    squares: Float[Tensor, "p n"],
    mask: Bool[Tensor, "p n"],
    num_centroids: int,
    draws: Float[Tensor, " T"],
) -> tuple[Float[Tensor, "p m d"], Float[Tensor, "p m"], Float[Tensor, "p m"]]:
    """Points to seed with, their squared lengths, and 1 where they exist; all of them if they are not many."""
    if points.shape[1] <= num_centroids * _SEEDING_POINTS:
        return points, squares, mask.to(points.dtype)
    draws = draws[num_centroids * _num_trials(num_centroids) :]
    count = mask.sum(dim=1, keepdim=True)
    place = (draws * count).long()
    if not bool(mask.all()):
        place = mask.int().argsort(dim=1, descending=True, stable=True).gather(1, place)
    each = torch.arange(len(points), device=points.device).unsqueeze(1)
    return points[each, place], squares[each, place], (count > 0).to(points.dtype).expand(-1, len(draws))


def _drawn(weights: Float[Tensor, "p n"], draws: Float[Tensor, " T"]) -> Int[Tensor, "p T"]:
    """Places drawn with chances in proportion to their weights."""
    total = weights.cumsum(dim=1)
    targets = total[:, -1:] * draws * (1 - 1e-6)
    return torch.searchsorted(total, targets, right=True).clamp_(max=weights.shape[1] - 1)
