"""Rank metrics: one number per query for where its relevant candidates stand in the order of a pool.

These are the metrics of `ranking.metrics` for pools too large to hold every score: all that they see of the order are
the ranks of the relevant candidates. A rank is 1 + the number of candidates scored higher + half of those that tie. A
query without a relevant candidate counts as 0. Every metric raises ValueError if an existing rank is below 1, or if k
is.

Note:
    Here a tie counts as the middle of its places, where `ranking.metrics` has the mean over all orders: that would need
    to know who ties with whom. Where no scores tie, both are the same.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from registry import RANK_METRICS
from registry.ranges import Rank


@RANK_METRICS.register("hit")
def hit(
    ranks: Float[Tensor, "B P"], labels: Float[Tensor, "B P"], mask: Bool[Tensor, "B P"], /, *, k: Rank = 1
) -> Float[Tensor, " B"]:
    """Whether a relevant candidate is among the top k.

    Args:
        k: How many of the best scored candidates to look at.

    Example:
        >>> yes = torch.ones(1, 2, dtype=torch.bool)
        >>> hit(torch.tensor([[7.0, 3.0]]), torch.ones(1, 2), yes, k=3)
        tensor([1.])
    """
    return _found(ranks, labels, mask, k).any(dim=1).float()


@RANK_METRICS.register("mrr")
def mrr(
    ranks: Float[Tensor, "B P"], labels: Float[Tensor, "B P"], mask: Bool[Tensor, "B P"], /, *, k: Rank | None = None
) -> Float[Tensor, " B"]:
    """Reciprocal rank of the first relevant candidate; the mean over queries is the MRR.

    Args:
        k: A first relevant candidate below rank k counts as 0; null for no limit.

    Example:
        >>> yes = torch.ones(1, 2, dtype=torch.bool)
        >>> mrr(torch.tensor([[7.0, 2.5]]), torch.ones(1, 2), yes)
        tensor([0.4000])
    """
    return (_found(ranks, labels, mask, k) / ranks).nan_to_num().amax(dim=1).float()


@RANK_METRICS.register("ndcg")
def ndcg(
    ranks: Float[Tensor, "B P"],
    labels: Float[Tensor, "B P"],
    mask: Bool[Tensor, "B P"],
    /,
    *,
    k: Rank | None = None,
    gain: Literal["linear", "exponential"] = "linear",
) -> Float[Tensor, " B"]:
    """Discounted cumulative gain relative to the best possible (Jarvelin and Kekalainen 2002).

    DCG = sum over the relevant candidates whose rank r is k at the most of gain / log2(1 + r).

    Args:
        k: How many of the best scored candidates to look at; null for all.
        gain: `linear`, the label as trec_eval has it, or `exponential`, 2^label - 1 (Burges et al. 2005).

    Example:
        >>> ndcg(torch.tensor([[2.0]]), torch.tensor([[1.0]]), torch.tensor([[True]]))  # 1 / log2(3)
        tensor([0.6309])
    """
    gains = torch.where(mask & (labels > 0), labels.double(), 0)
    if gain == "exponential":
        gains = gains.exp2() - 1
    found = torch.where(_found(ranks, labels, mask, k), gains / (1 + ranks.double()).log2(), 0).sum(dim=1)
    places = torch.arange(1, gains.shape[1] + 1, device=gains.device, dtype=torch.float64)
    ideal = (gains.sort(dim=1, descending=True).values / (1 + places).log2())[:, :k].sum(dim=1)
    return (found / torch.where(ideal > 0, ideal, 1)).float()


@RANK_METRICS.register("recall")
def recall(
    ranks: Float[Tensor, "B P"], labels: Float[Tensor, "B P"], mask: Bool[Tensor, "B P"], /, *, k: Rank
) -> Float[Tensor, " B"]:
    """Share of the relevant candidates that are among the top k.

    Args:
        k: How many of the best scored candidates to look at.

    Example:
        >>> yes = torch.ones(1, 2, dtype=torch.bool)
        >>> recall(torch.tensor([[7.0, 3.0]]), torch.ones(1, 2), yes, k=3)
        tensor([0.5000])
    """
    relevant = (mask & (labels > 0)).sum(dim=1)
    return _found(ranks, labels, mask, k).sum(dim=1).float() / relevant.clamp(min=1)


def _found(
    ranks: Float[Tensor, "B P"], labels: Float[Tensor, "B P"], mask: Bool[Tensor, "B P"], k: int | None
) -> Bool[Tensor, "B P"]:
    """True where a relevant candidate is among the top k."""
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if bool((mask & ~(ranks >= 1)).any()):
        raise ValueError("ranks of existing candidates must be 1 or more")
    relevant = mask & (labels > 0)
    return relevant if k is None else relevant & (ranks <= k)
