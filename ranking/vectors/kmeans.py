"""K-means: many small clusterings at once, or one large clustering, on tensors (Eqs. 3-5 of the LRanker paper).

k-means++ seeding with a few trials per step (Arthur and Vassilvitskii 2007), then Lloyd's iterations until the inertia,
the sum of squared distances to the centroids, hardly falls. Assignments may use the first dimensions only (Matryoshka
embeddings); centroids are means of full vectors.

Sets are independent: a set gets the same clusters alone and together with others.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ranking.vectors.clusters import Clusters, cluster_sums, largest_first
from ranking.vectors.products import full_precision, products

_CACHED = 2**21  # vector entries that a CPU processes together
_BLOCK = 2**19  # vector entries of a larger set that a CPU processes together
_MEMORY = 2**28  # vector entries that a GPU processes together
_AT_ONCE = 4  # centroids that one step draws, from three times as many points
_NOISE = 2e-6  # squared distances below this share of the squared lengths are rounding errors

_PointsOf = Callable[[slice, slice, int | None], Tensor]


def kmeans(
    vectors: Float[Tensor, "P n D"],
    mask: Bool[Tensor, "P n"],
    num_centroids: int,
    *,
    assign_dim: int | None = None,
    max_iterations: int = 20,
    tolerance: float = 5e-3,
    seed: int = 0,
) -> Clusters:
    """Cluster each of P sets.

    Args:
        vectors: Vectors of the points.
        mask: True where a point exists.
        num_centroids: K, the number of clusters.
        assign_dim: Number of first dimensions that decide the cluster of a point; null for all.
        max_iterations: Maximum number of assignment steps.
        tolerance: A set is done when an iteration lowers its inertia by at most this share.
        seed: Seed of the initial centroids.

    Raises:
        ValueError: If a number is below 1, or the tolerance below 0.

    >>> found = kmeans(torch.tensor([[[0.0], [9.0], [1.0], [2.0]]]), torch.ones(1, 4, dtype=torch.bool), 2)
    >>> found.centroids.flatten(), found.assignment
    (tensor([1., 9.]), tensor([[0, 1, 0, 0]]))
    """
    real = None if bool(mask.all()) else mask.unsqueeze(2)

    def points_of(sets: slice, places: slice, dim: int | None) -> Float[Tensor, "p m d"]:
        some = vectors[sets, places, :dim].float()
        return some if real is None else torch.where(real[sets, places], some, 0)

    schedule = _Schedule(num_centroids, max_iterations, tolerance, seed)
    return _cluster(points_of, vectors.shape[2], mask, assign_dim, schedule)


def kmeans_rows(
    table: Float[Tensor, "N D"],
    rows: Int[Tensor, "P n"],
    mask: Bool[Tensor, "P n"],
    num_centroids: int,
    *,
    assign_dim: int | None = None,
    max_iterations: int = 20,
    tolerance: float = 5e-3,
    seed: int = 0,
) -> Clusters:
    """The same as `kmeans` of `table[rows]`, without all of these vectors in memory.

    Args:
        table: Vectors that the sets share.
        rows: The rows of each set; values where the mask is False are ignored.
        mask: True where a point exists.
        num_centroids: K, the number of clusters.
        assign_dim: Number of first dimensions that decide the cluster of a point; null for all.
        max_iterations: Maximum number of assignment steps.
        tolerance: A set is done when an iteration lowers its inertia by at most this share.
        seed: Seed of the initial centroids.
    """
    rows = torch.where(mask, rows, 0)

    def points_of(sets: slice, places: slice, dim: int | None) -> Float[Tensor, "p m d"]:
        some = rows[sets, places]
        return table[:, :dim].index_select(0, some.flatten()).float().unflatten(0, some.shape)

    schedule = _Schedule(num_centroids, max_iterations, tolerance, seed)
    return _cluster(points_of, table.shape[1], mask, assign_dim, schedule)


class _Schedule:
    """The options of a clustering.

    All sets use the same random numbers, so that no set depends on the number of sets.
    """

    def __init__(self, num_centroids: int, max_iterations: int, tolerance: float, seed: int) -> None:
        for name, value in (("num_centroids", num_centroids), ("max_iterations", max_iterations)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance must be from 0 to below 1, not {tolerance}")
        self.num_centroids, self.max_iterations, self.tolerance = num_centroids, max_iterations, tolerance
        self._draw = torch.Generator().manual_seed(seed)
        self.trials = torch.rand(-(-num_centroids // _AT_ONCE), 3 * _AT_ONCE, generator=self._draw)

    def sample(self, num_points: int) -> Float[Tensor, " m"] | None:
        """Random numbers in [0, 1) that choose the points for seeding from many; None if seeding uses all points."""
        size = max(100 * self.num_centroids, min(256 * self.num_centroids, num_points // 64))
        return torch.rand(size, generator=self._draw) if size < num_points else None


def _cluster(
    points_of: _PointsOf, feature_dim: int, mask: Bool[Tensor, "P n"], assign_dim: int | None, schedule: _Schedule
) -> Clusters:
    """Cluster the sets in groups, each as large as can be processed fast."""
    if assign_dim is not None and assign_dim < 1:
        raise ValueError(f"assign_dim must be at least 1, or null for all dimensions, not {assign_dim}")
    dim = min(assign_dim or feature_dim, feature_dim)
    budget = _CACHED if mask.device.type == "cpu" else _MEMORY
    size = budget // max(1, mask.shape[1] * dim)
    sample = schedule.sample(mask.shape[1])
    trials = schedule.trials.to(mask.device)
    parts = []
    with torch.no_grad(), full_precision(mask.device):
        for sets in _groups(len(mask), size):
            points, real = points_of(sets, slice(None), dim), mask[sets]
            if sample is None:
                start = _seeds(points, real, schedule.num_centroids, trials)
            else:
                places, there = _chosen(real, sample.to(mask.device))
                start = _Start(_seeds(_taken(points, places), there, schedule.num_centroids, trials).centroids)
            lloyd = _Lloyd(points, real, start)
            lloyd.run(schedule.max_iterations, schedule.tolerance)
            if dim < feature_dim:
                lloyd.sums = _full_sums(points_of, sets, lloyd, budget // feature_dim)
            parts.append(largest_first(lloyd.sums, lloyd.sizes, lloyd.assignment))
    return Clusters(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _groups(number: int, size: int) -> list[slice]:
    """At least one slice of up to `size` elements each, which together have `number` elements."""
    size = max(1, size)
    return [slice(start, min(start + size, number)) for start in range(0, number, size)] or [slice(0, 0)]


class _Start(NamedTuple):
    """The start of Lloyd's algorithm: centroids and, if known, each point's nearest centroid and distance."""

    centroids: Float[Tensor, "p K d"]
    assignment: Int[Tensor, "p n"] | None = None
    nearest: Float[Tensor, "p n"] | None = None


def _chosen(mask: Bool[Tensor, "p n"], sample: Float[Tensor, " m"]) -> tuple[Int[Tensor, "p m"], Bool[Tensor, "p m"]]:
    """Indices of sampled points of each set, and whether they exist."""
    count = mask.sum(dim=1, keepdim=True)
    places = (sample * count).long()
    if not bool(mask.all()):
        places = mask.int().argsort(dim=1, descending=True, stable=True).gather(1, places)
    return places, (count > 0).expand_as(places)


def _seeds(
    points: Float[Tensor, "p n d"], mask: Bool[Tensor, "p n"], num_centroids: int, trials: Float[Tensor, "S T"]
) -> _Start:
    """Choose the initial centroids by greedy k-means++.

    Each step draws a few points with probabilities proportional to their squared distances to the nearest centroid so
    far, and keeps those that lower the inertia most. A step keeps several points: as good as one per step, and faster.
    """
    squares, transposed = _squares(points), points.transpose(1, 2)
    seeds, assignment, nearest = [], torch.zeros_like(mask, dtype=torch.int64), mask.float()
    if not points.shape[1]:
        return _Start(points.new_zeros(len(points), num_centroids, points.shape[2]), assignment, nearest)
    for draws in trials:
        total = nearest.cumsum(dim=1)
        place = torch.searchsorted(total, total[:, -1:] * draws * (1 - 1e-6), right=True)
        place = place.clamp_(max=points.shape[1] - 1)
        chosen, square = _taken(points, place), squares.gather(1, place)
        left = torch.baddbmm(squares.unsqueeze(1), chosen, transposed, alpha=-2).add_(square.unsqueeze(2))
        for _ in range(min(_AT_ONCE, num_centroids - len(seeds))):
            left = torch.minimum(left, nearest.unsqueeze(1)) if seeds else left.mul_(nearest.unsqueeze(1))
            best = left.sum(dim=2).argmin(dim=1, keepdim=True)
            before, nearest = nearest, _taken(left, best)[:, 0].clamp_(min=0)
            if seeds:
                assignment.masked_fill_(nearest < before, len(seeds))
            seeds.append(_taken(chosen, best))
    return _Start(torch.cat(seeds, dim=1), assignment.masked_fill_(~mask, -1), nearest)


def _taken(points: Float[Tensor, "p n d"], places: Int[Tensor, "p m"]) -> Float[Tensor, "p m d"]:
    """The points of each set at these indices."""
    first = torch.arange(0, points.shape[0] * points.shape[1], points.shape[1], device=points.device)
    rows = (places + first.unsqueeze(1)).flatten()
    return points.flatten(0, 1).index_select(0, rows).unflatten(0, places.shape)


def _block_size(points: Float[Tensor, "p n d"]) -> int:
    """How many points of a group to process together."""
    if points.device.type != "cpu":
        return _MEMORY // max(1, len(points) * points.shape[2])
    return points.shape[1] if points.numel() <= _CACHED else _BLOCK // points.shape[2]


def _squares(points: Float[Tensor, "p n d"]) -> Float[Tensor, "p n"]:
    """Squared lengths, slightly lowered, so that rounding does not make a point's distance to itself positive."""
    return torch.linalg.vector_norm(points, dim=2).square_().mul_(1 - _NOISE)


class _Lloyd:
    """Lloyd's algorithm on a group of p sets, in the dimensions that decide the cluster of a point."""

    def __init__(self, points: Float[Tensor, "p n d"], mask: Bool[Tensor, "p n"], start: _Start) -> None:
        self.points, self.mask, self.num_centroids = points, mask, start.centroids.shape[1]
        self.blocks = _groups(points.shape[1], _block_size(points))
        self.buffer = points.new_empty(0)
        self.squares = _squares(points)
        self.masked = None if bool(mask.all()) else ~mask
        self.wanted = torch.arange(self.num_centroids, device=mask.device) < mask.sum(dim=1, keepdim=True)
        self.gone = ~self.wanted
        self.centroids = self.sums = start.centroids
        self.sizes = self.wanted.long()
        self.assigned = start.assignment is not None
        self.assignment = torch.zeros_like(mask, dtype=torch.int64) if start.assignment is None else start.assignment
        self.nearest = torch.zeros_like(self.squares) if start.nearest is None else start.nearest

    def run(self, max_iterations: int, tolerance: float, before: Float[Tensor, " p"] | None = None) -> None:
        """Assign points to their nearest centroids, and move the centroids to the means of their points; repeat.

        Sets that are done keep their centroids. When only a quarter of the sets is left, these continue alone.

        Args:
            max_iterations: Maximum number of assignment steps, including the one of the start.
            tolerance: A set is done when an iteration lowers its inertia by at most this share.
            before: The inertia after the iteration before.
        """
        before = self.nearest.new_full((len(self.points),), torch.inf) if before is None else before
        going = torch.ones_like(before, dtype=torch.bool)
        for left in range(max_iterations - 1, -1, -1):
            self._assign_and_add_up()
            inertia = self.nearest.sum(dim=1)
            going &= inertia < (1 - tolerance) * before
            count = int(going.sum())
            if not left or not count:
                return
            means = self.sums / self.sizes.clamp(min=1).unsqueeze(2)
            if 4 * count <= len(going):
                rest = _Lloyd(self.points[going], self.mask[going], _Start(means[going]))
                rest.gone = self.gone[going]
                rest.run(left, tolerance, inertia[going])
                self.assignment[going], self.sums[going], self.sizes[going] = rest.assignment, rest.sums, rest.sizes
                return
            self.centroids = torch.where(going[:, None, None], means, self.centroids)
            before = inertia

    def _assign_and_add_up(self) -> None:
        """Assign each point to its nearest centroid, and sum up the points of each cluster."""
        bias = self.centroids.square().sum(dim=2).masked_fill_(self.gone, torch.inf)
        self.sums, self.sizes = torch.zeros_like(self.centroids), torch.zeros_like(self.sizes)
        for places in self.blocks:
            points = self._load(places)
            if not self.assigned:
                self._assign(points, bias, places)
            sums, sizes = cluster_sums(points, self.assignment[:, places], self.num_centroids)
            self.sums += sums
            self.sizes += sizes
        self.assigned = False
        missing = (self.sizes == 0) & self.wanted
        if bool(missing.any()):
            self._repair(missing)

    def _load(self, places: slice) -> Float[Tensor, "p m d"]:
        """A block of points; if there are many blocks, it is copied so that it stays in the cache."""
        points = self.points[:, places]
        if len(self.blocks) == 1 or points.device.type != "cpu":
            return points
        if not len(self.buffer):
            self.buffer = torch.empty_like(points)
        return self.buffer[:, : points.shape[1]].copy_(points)

    def _assign(self, points: Float[Tensor, "p m d"], bias: Float[Tensor, "p K"], places: slice) -> None:
        """Assign points to their nearest centroids, and store squared distances, 0 where they are rounding errors."""
        if len(points) == 1:
            scores = products(points[0], -2 * self.centroids[0], bias[0]).T.unsqueeze(0)
        else:
            scores = torch.baddbmm(bias.unsqueeze(2), self.centroids, points.transpose(1, 2), alpha=-2)
        nearest, assignment = self.nearest[:, places], self.assignment[:, places]
        for place, some in enumerate(scores):  # one set at a time: all at once takes twice as long
            torch.min(some, dim=0, out=(nearest[place], assignment[place]))
        nearest.add_(self.squares[:, places]).clamp_(min=0)
        if self.masked is not None:
            assignment.masked_fill_(self.masked[:, places], -1)
            nearest.masked_fill_(self.masked[:, places], 0)

    def _repair(self, missing: Bool[Tensor, "p K"]) -> None:
        """Replace empty clusters by the points farthest from their centroids, as scikit-learn does."""
        for place in missing.any(dim=1).nonzero().flatten().tolist():
            slots = missing[place].nonzero().flatten().tolist()
            far = self.nearest[place].sort(descending=True, stable=True)
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


def _full_sums(points_of: _PointsOf, sets: slice, lloyd: _Lloyd, size: int) -> Float[Tensor, "p K D"]:
    """The sums of the full vectors of each cluster."""
    total = torch.zeros(())
    for places in _groups(lloyd.assignment.shape[1], size // len(lloyd.points)):
        vectors = points_of(sets, places, None)
        total = cluster_sums(vectors, lloyd.assignment[:, places], lloyd.num_centroids)[0].add_(total)
    return total
