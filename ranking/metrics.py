"""Metrics: one number per query for how well scores order its candidates; higher is better, 1 is perfect.

Tied scores count as they would on average if ties were broken at random, computed exactly and not by drawing (McSherry
and Najork 2008, "Computing information retrieval performance measures efficiently in the presence of tied scores"). So
a scorer that knows nothing gets what random order gets, however the candidates are stored.

Candidates with a label above 0 are relevant; graded labels matter to `ndcg` only. A query without a relevant candidate
counts as 0. Masked candidates never matter. Every metric raises ValueError if a score of an existing candidate is nan,
or if k is below 1.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from registry import METRICS, Node, Registry
from registry.ranges import Rank
from registry.schema import options


def metric_name(node: Node, kind: Registry = METRICS) -> str:
    """What a metric is logged as: its name and cut-off, and other options where they are not the defaults.

    Example:
        >>> metric_name("hit"), metric_name({"name": "ndcg", "k": 10, "gain": "exponential"})
        ('hit@1', 'ndcg@10_exponential')
    """
    given = kind.check(node)
    name, cutoff = given.pop("name"), given.pop("k", None)
    defaults = options(kind.get(name))
    unusual = [str(value) for option, value in given.items() if value != defaults[option].default]
    return "_".join([name if cutoff is None else f"{name}@{cutoff}", *unusual])


@METRICS.register("hit")
def hit(
    scores: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"], /, *, k: Rank = 1
) -> Float[Tensor, " B"]:
    """Whether a relevant candidate is among the top k; hit@1 is the accuracy of the top candidate.

    Args:
        k: How many of the best scored candidates to look at.

    Example:
        >>> yes = torch.ones(1, 4, dtype=torch.bool)
        >>> hit(torch.tensor([[2.0, 1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0, 0.0]]), yes, k=2)  # one of two tied
        tensor([0.5000])
    """
    return _first_relevant(scores, labels, mask)[:, : _cutoff(k)].sum(dim=-1).clamp(max=1)


@METRICS.register("mrr")
def mrr(
    scores: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"], /, *, k: Rank | None = None
) -> Float[Tensor, " B"]:
    """Reciprocal rank of the first relevant candidate; the mean over queries is the MRR.

    Args:
        k: A first relevant candidate below rank k counts as 0; null for no limit.

    Example:
        >>> yes = torch.ones(1, 3, dtype=torch.bool)
        >>> mrr(torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0]]), yes)  # (1/2 + 1/3) / 2
        tensor([0.4167])
    """
    first = _first_relevant(scores, labels, mask)
    return (first / _ranks(first))[:, : _cutoff(k)].sum(dim=-1)


@METRICS.register("ndcg")
def ndcg(
    scores: Float[Tensor, "B K"],
    labels: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"],
    /,
    *,
    k: Rank | None = None,
    gain: Literal["linear", "exponential"] = "linear",
) -> Float[Tensor, " B"]:
    """Discounted cumulative gain relative to the best possible (Jarvelin and Kekalainen 2002).

    DCG = sum over the ranks r up to k of gain(r) / log2(1 + r).

    Args:
        k: How many of the best scored candidates to look at; null for all.
        gain: `linear`, the label as trec_eval has it, or `exponential`, 2^label - 1 (Burges et al. 2005).

    Example:
        >>> yes = torch.ones(1, 2, dtype=torch.bool)
        >>> ndcg(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), yes)  # 1 / log2(3)
        tensor([0.6309])
    """
    gains = torch.where(mask & (labels > 0), labels.float(), 0)
    if gain == "exponential":
        gains = gains.exp2() - 1
    discounts = 1 / (1 + _ranks(gains)).log2()
    found = (_expected(gains, scores, mask) * discounts)[:, : _cutoff(k)].sum(dim=-1)
    ideal = (gains.sort(dim=-1, descending=True).values * discounts)[:, :k].sum(dim=-1)
    return found / torch.where(ideal > 0, ideal, 1)


@METRICS.register("recall")
def recall(
    scores: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"], /, *, k: Rank
) -> Float[Tensor, " B"]:
    """Share of the relevant candidates that are among the top k.

    Args:
        k: How many of the best scored candidates to look at.

    Example:
        >>> yes = torch.ones(1, 3, dtype=torch.bool)
        >>> recall(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1.0, 0.0, 1.0]]), yes, k=2)
        tensor([0.5000])
    """
    relevant = (mask & (labels > 0)).float()
    return _expected(relevant, scores, mask)[:, : _cutoff(k)].sum(dim=-1) / relevant.sum(dim=-1).clamp(min=1)


@METRICS.register("precision")
def precision(
    scores: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"], /, *, k: Rank
) -> Float[Tensor, " B"]:
    """Share of the top k that are relevant; places that a short list leaves empty count as not relevant.

    Args:
        k: How many of the best scored candidates to look at.

    Example:
        >>> yes = torch.ones(1, 3, dtype=torch.bool)
        >>> precision(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1.0, 0.0, 1.0]]), yes, k=2)
        tensor([0.5000])
    """
    relevant = (mask & (labels > 0)).float()
    return _expected(relevant, scores, mask)[:, : _cutoff(k)].sum(dim=-1) / k


def _expected(
    values: Float[Tensor, "B K"], scores: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """The value to expect at each rank: the mean of the values tied there."""
    order, block, size = _tie_blocks(scores, mask)
    total = torch.zeros_like(values).scatter_add_(-1, block, values.gather(-1, order))
    return (total / size.clamp(min=1)).gather(-1, block)


def _first_relevant(
    scores: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """The probability of each rank to be that of the first relevant candidate.

    A block of n tied candidates, R of them relevant, is drawn from without replacement: if its first i draws are not
    relevant, the next one is with probability R / (n - i).
    """
    order, block, size = _tie_blocks(scores, mask)
    relevant = (mask & (labels > 0)).gather(-1, order).long()
    total = torch.zeros_like(size).scatter_add_(-1, block, relevant).gather(-1, block)
    end = size.cumsum(dim=-1).gather(-1, block)
    left = end - torch.arange(scores.shape[-1], device=scores.device)
    chance = (total / left).clamp(max=1)
    none_yet = (1 - chance).cumprod(dim=-1).roll(1, dims=-1)
    none_yet[:, :1] = 1
    return none_yet * chance


def _tie_blocks(
    scores: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"]
) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B K"], Int[Tensor, "B K"]]:
    """Candidates by falling score, the number of the tie block at each rank, and how many candidates each block has."""
    broken = (mask & scores.isnan()).any(dim=-1)
    if broken.any():
        rows = ", ".join(map(str, broken.nonzero().flatten().tolist()[:5]))
        raise ValueError(f"scores of existing candidates are nan, so they have no order (rows {rows} of the batch)")
    lowest = torch.finfo(torch.float32).min
    ordered, order = torch.where(mask, scores.float().clamp(min=lowest), -torch.inf).sort(dim=-1, descending=True)
    block = torch.zeros_like(order)
    block[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(dim=-1)
    return order, block, torch.zeros_like(block).scatter_add_(-1, block, torch.ones_like(block))


def _ranks(values: Float[Tensor, "B K"]) -> Float[Tensor, " K"]:
    return torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=torch.float32)


def _cutoff(k: int | None) -> int | None:
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    return k
