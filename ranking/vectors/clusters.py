"""Clusters: sums and means of the points of each cluster, added in the same order in every run."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Clusters(NamedTuple):
    """The clusters of P sets of n points, the largest cluster first.

    Args:
        centroids: Means of the clusters; zero where a set has fewer than K different points.
        mask: True where a centroid exists.
        assignment: The cluster of each point, -1 where no point exists.
        sizes: Number of points of each cluster.
    """

    centroids: Float[Tensor, "P K D"]
    mask: Bool[Tensor, "P K"]
    assignment: Int[Tensor, "P n"]
    sizes: Int[Tensor, "P K"]


def cluster_sums(
    points: Float[Tensor, "P n D"], assignment: Int[Tensor, "P n"], num_clusters: int
) -> tuple[Float[Tensor, "P K D"], Int[Tensor, "P K"]]:
    """The sum of the points of each cluster, in fp32, and their number; points assigned to -1 are ignored.

    >>> cluster_sums(torch.tensor([[[1.0], [2.0], [4.0]]]), torch.tensor([[1, -1, 1]]), 2)
    (tensor([[[0.],
             [5.]]]), tensor([[0, 2]]))
    """
    points, slots = points.float(), num_clusters + 1  # the first slot is for ignored points
    place = assignment + torch.arange(1, slots * len(points) + 1, slots, device=points.device).unsqueeze(1)
    sizes = place.flatten().bincount(minlength=slots * len(points)).unflatten(0, (-1, slots))[:, 1:]
    if points.device.type != "cpu":  # GPUs add to rows in random order
        return F.one_hot(assignment + 1, slots)[:, :, 1:].transpose(1, 2).to(points.dtype) @ points, sizes
    sums = points.new_zeros(slots * len(points), points.shape[2])
    sums.index_add_(0, place.flatten(), points.flatten(0, 1))
    return sums.unflatten(0, (-1, slots))[:, 1:], sizes


def largest_first(sums: Float[Tensor, "P K D"], sizes: Int[Tensor, "P K"], assignment: Int[Tensor, "P n"]) -> Clusters:
    """Sort clusters by size, largest first; equally large clusters by their first coordinates, ascending."""
    means = sums / sizes.clamp(min=1).unsqueeze(2)
    order = torch.arange(sizes.shape[1], device=sizes.device).expand_as(sizes)
    for key in (*means[:, :, :3].unbind(dim=2)[::-1], -sizes):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    place = F.pad(order.argsort(dim=1), (0, 1), value=-1)
    assignment = place.gather(1, torch.where(assignment < 0, sizes.shape[1], assignment))
    sizes = sizes.gather(1, order)
    centroids = means.gather(1, order.unsqueeze(2).expand_as(means))
    return Clusters(centroids * (sizes > 0).unsqueeze(2), sizes > 0, assignment, sizes)
