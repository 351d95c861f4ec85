"""K-means: many small clusterings at once, or one large one, on tensors (Eqs. 3-5 of the LRanker paper).

k-means++ seeding with a few trials a step (Arthur and Vassilvitskii 2007), then Lloyd's iterations until the inertia,
the sum of squared distances to the centroids, hardly falls. Assignments may look at the first dimensions only
(Matryoshka embeddings); centroids are means of full vectors.

Sets do not influence one another: a set gets the same clusters alone and beside others.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ranking.clusters import Clustering, cluster_sums, largest_first
from ranking.products import full_precision, products

_CACHED = 2**20  # numbers of points that a processor works on at once
_MEMORY = 2**28  # likewise, of a GPU
_NOISE = 2e-6  # squared distances below this share of the squared lengths are rounding

_PointsOf = Callable[[slice, slice | Tensor, int | None], Tensor]


def kmeans(
    vectors: Float[Tensor, "P n D"],
    mask: Bool[Tensor, "P n"],
    num_centroids: int,
    *,
    assign_dim: int | None = None,
    max_iterations: int = 20,
    tolerance: float = 2e-3,
    seed: int = 0,
) -> Clustering:
    """Cluster each of P sets.

    Args:
        vectors: Of the points.
        mask: True where a point exists.
        num_centroids: K.
        assign_dim: How many of the first dimensions say which cluster a point is in; null for all.
        max_iterations: Assignments at the most.
        tolerance: A set is done when an iteration lowers its inertia by no more than this share.
        seed: Of the seeding.

    Raises:
        ValueError: If a number is below 1, or the tolerance below 0.

    >>> found = kmeans(torch.tensor([[[0.0], [9.0], [1.0], [2.0]]]), torch.ones(1, 4, dtype=torch.bool), 2)
    >>> found.centroids.flatten(), found.assignment
    (tensor([1., 9.]), tensor([[0, 1, 0, 0]]))
    """

    def points_of(sets: slice, places: slice | Tensor, dim: int | None) -> Float[Tensor, "p m d"]:
        some = vectors[sets, :, :dim]
        if isinstance(places, slice):
            return some[:, places].float()
        return _taken(some, places).float()

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
    tolerance: float = 2e-3,
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
        tolerance: A set is done when an iteration lowers its inertia by no more than this share.
        seed: Of the seeding.
    """
    rows = torch.where(mask, rows, 0)

    def points_of(sets: slice, places: slice | Tensor, dim: int | None) -> Float[Tensor, "p m d"]:
        some = rows[sets]
        some = some[:, places] if isinstance(places, slice) else some.gather(1, places)
        return table[:, :dim].index_select(0, some.flatten()).float().unflatten(0, some.shape)

    schedule = _Schedule(num_centroids, max_iterations, tolerance, seed)
    return _cluster(points_of, table.shape[1], mask, assign_dim, schedule)


class _Schedule:
    """How clusters are to be found.

    The random numbers are the same for all sets, so that no set depends on how many there are.
    """

    def __init__(self, num_centroids: int, max_iterations: int, tolerance: float, seed: int) -> None:
        for name, value in (("num_centroids", num_centroids), ("max_iterations", max_iterations)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance must be from 0 to below 1, not {tolerance}")
        self.num_centroids, self.max_iterations, self.tolerance = num_centroids, max_iterations, tolerance
        self._draw = torch.Generator().manual_seed(seed)
        self.trials = torch.rand(num_centroids, 2 + int(math.log(num_centroids)), generator=self._draw)

    def sample(self, num_points: int) -> Float[Tensor, " m"] | None:
        """Numbers from 0 to 1 that choose which of many points seeding looks at; None if it looks at all."""
        size = max(20 * self.num_centroids, min(256 * self.num_centroids, num_points // 64))
        return torch.rand(size, generator=self._draw) if size < num_points else None


def _cluster(
    points_of: _PointsOf, feature_dim: int, mask: Bool[Tensor, "P n"], assign_dim: int | None, schedule: _Schedule
) -> Clustering:
    """Cluster group by group of sets, each as large as can be worked on fast."""
    if assign_dim is not None and assign_dim < 1:
        raise ValueError(f"assign_dim must be at least 1, or null for all dimensions, not {assign_dim}")
    dim = min(assign_dim or feature_dim, feature_dim)
    budget = _CACHED if mask.device.type == "cpu" else _MEMORY
    with torch.no_grad(), full_precision(mask.device):
        seeds = _seeds(points_of, mask, dim, schedule, budget)
        parts = []
        for sets in _groups(len(mask), budget // max(1, mask.shape[1] * dim)):
            lloyd = _Lloyd(points_of(sets, slice(None), dim), mask[sets], seeds[sets], budget // dim)
            lloyd.run(schedule.max_iterations, schedule.tolerance)
            sums = lloyd.sums if dim == feature_dim else _full_sums(points_of, sets, lloyd, budget // feature_dim)
            parts.append(largest_first(sums, lloyd.sizes, lloyd.assignment))
    return Clustering(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _groups(number: int, size: int) -> list[slice]:
    """Slices of up to `size` that together have `number` elements; one at least."""
    size = max(1, size)
    return [slice(start, min(start + size, number)) for start in range(0, number, size)] or [slice(0, 0)]


def _seeds(
    points_of: _PointsOf, mask: Bool[Tensor, "P n"], dim: int, schedule: _Schedule, budget: int
) -> Float[Tensor, "P K d"]:
    """Points to begin with as centroids: each the best of a few, drawn by their squared distance to those before."""
    sample = schedule.sample(mask.shape[1])
    trials = schedule.trials.to(mask.device)
    if sample is None:
        places, weight = slice(None), mask.float()
    else:
        count = mask.sum(dim=1, keepdim=True)
        places = (sample.to(mask.device) * count).long()
        if not bool(mask.all()):
            places = mask.int().argsort(dim=1, descending=True, stable=True).gather(1, places)
        weight = (count > 0).float().expand_as(places)
    parts = []
    for sets in _groups(len(mask), 4 * budget // max(1, weight.shape[1] * dim)):
        points = points_of(sets, places if isinstance(places, slice) else places[sets], dim)
        parts.append(_plus_plus(points, weight[sets], trials))
    return torch.cat(parts)


def _plus_plus(
    points: Float[Tensor, "p m d"], weight: Float[Tensor, "p m"], trials: Float[Tensor, "K T"]
) -> Float[Tensor, "p K d"]:
    """The greedy variant of k-means++, with as many trials a step as scikit-learn."""
    squares, transposed = _squares(points), points.transpose(1, 2)
    nearest, seeds = weight, points.new_empty(len(points), len(trials), points.shape[2])
    for step, draws in enumerate(trials):
        total = nearest.cumsum(dim=1)
        place = torch.searchsorted(total, total[:, -1:] * draws * (1 - 1e-6), right=True)
        place = place.clamp_(max=points.shape[1] - 1)
        chosen, square = _taken(points, place), squares.gather(1, place)
        distance = torch.baddbmm(squares.unsqueeze(1), chosen, transposed, alpha=-2).add_(square.unsqueeze(2))
        left = torch.minimum(distance, nearest.unsqueeze(1)) if step else distance * weight.unsqueeze(1)
        left.clamp_(min=0)
        best = left.sum(dim=2).argmin(dim=1, keepdim=True)
        nearest, seeds[:, step : step + 1] = _taken(left, best)[:, 0], _taken(chosen, best)
    return seeds


def _taken(points: Float[Tensor, "p n d"], places: Int[Tensor, "p m"]) -> Float[Tensor, "p m d"]:
    """Some points of each set."""
    first = torch.arange(0, points.shape[0] * points.shape[1], points.shape[1], device=points.device)
    rows = (places + first.unsqueeze(1)).flatten()
    return points.flatten(0, 1).index_select(0, rows).unflatten(0, places.shape)


def _squares(points: Float[Tensor, "p n d"]) -> Float[Tensor, "p n"]:
    """Squared lengths, lowered so that rounding does not make the distance of a point to itself more than 0."""
    return torch.linalg.vector_norm(points, dim=2).square_().mul_(1 - _NOISE)


class _Lloyd:
    """Lloyd's algorithm on a group of p sets, in the dimensions that say which cluster a point is in.

    A set that is done keeps its centroids, and with them its clusters, while others go on.
    """

    def __init__(
        self,
        points: Float[Tensor, "p n d"],
        mask: Bool[Tensor, "p n"],
        centroids: Float[Tensor, "p K d"],
        block_size: int,
    ) -> None:
        self.points, self.mask, self.centroids = points, mask, centroids
        self.blocks = _groups(points.shape[1], block_size // len(points))
        self.num_centroids = centroids.shape[1]
        self.squares = _squares(points)
        self.masked = None if bool(mask.all()) else ~mask
        self.wanted = torch.arange(self.num_centroids, device=mask.device) < mask.sum(dim=1, keepdim=True)
        self.gone = ~self.wanted
        self.sums, self.sizes = centroids, self.wanted.long()
        self.nearest = torch.empty_like(self.squares)
        self.assignment = torch.empty_like(mask, dtype=torch.int64)

    def run(self, max_iterations: int, tolerance: float) -> None:
        """Assign points and move centroids until this hardly helps."""
        inertia = torch.full_like(self.squares[:, 0], torch.inf)
        going = torch.ones_like(inertia, dtype=torch.bool)
        for _ in range(max_iterations):
            self._assign()
            self._add_up()
            if bool((missing := (self.sizes == 0) & self.wanted).any()):
                self._repair(missing)
            before, inertia = inertia, self.nearest.sum(dim=1)
            going &= inertia < (1 - tolerance) * before
            if not bool(going.any()):
                break
            means = self.sums / self.sizes.clamp(min=1).unsqueeze(2)
            self.centroids = torch.where(going[:, None, None], means, self.centroids)

    def _assign(self) -> None:
        """Give each point its nearest centroid, and note its squared distance, 0 where that is rounding."""
        squares = self.centroids.square().sum(dim=2).masked_fill_(self.gone, torch.inf)
        for places in self.blocks:
            points = self.points[:, places]
            if len(points) == 1:
                scores = products(points[0], -2 * self.centroids[0], squares[0]).T.unsqueeze(0)
            else:
                scores = torch.baddbmm(squares.unsqueeze(2), self.centroids, points.transpose(1, 2), alpha=-2)
            torch.min(scores, dim=1, out=(self.nearest[:, places], self.assignment[:, places]))
        self.nearest.add_(self.squares).clamp_(min=0)
        if self.masked is not None:
            self.assignment.masked_fill_(self.masked, -1)
            self.nearest.masked_fill_(self.masked, 0)

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

    def _repair(self, missing: Bool[Tensor, "p K"]) -> None:
        """Make the points that are farthest from their centroids clusters of their own, as scikit-learn does."""
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
    """The sums of full vectors."""
    total = torch.zeros(())
    for places in _groups(lloyd.assignment.shape[1], size // len(lloyd.points)):
        vectors = points_of(sets, places, None)
        total = cluster_sums(vectors, lloyd.assignment[:, places], lloyd.num_centroids)[0].add_(total)
    return total
