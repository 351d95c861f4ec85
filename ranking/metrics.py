"""Metrics: one number per query for where its candidates stand in the order; higher is better, 1 is perfect.

All that they see of the order is how many other candidates stand above each judged one, and how many are tied with it
(`ranking.places`). Tied candidates count as they would on average if ties were broken at random, computed exactly and
not by drawing (McSherry and Najork 2008, "Computing information retrieval performance measures efficiently in the
presence of tied scores"). So a scorer that knows nothing gets what random order gets, however the candidates are
stored.

`labels` are the grades, which `ndcg` uses, those below 0 as 0; `relevant` says which candidates count for all other
metrics. A judged candidate that is not in the order, being nowhere in the pool, has infinitely many above it: it is
never found, but counts among what there was to find. A query without a relevant candidate counts as 0. Every metric
raises ValueError if k is below 1, or if a place is negative or nan.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from registry import METRICS, Node
from registry.ranges import Rank
from registry.schema import options

# A tie is taken place by place up to here; beyond, places that differ by less than a thousandth are taken together.
_EXACT = 4096
_ROWS = 256  # queries whose ties are looked at together


def metric_name(node: Node) -> str:
    """What a metric is logged as: its name and cut-off, and other options where they are not the defaults.

    Example:
        >>> metric_name("hit"), metric_name({"name": "ndcg", "k": 10, "gain": "exponential"})
        ('hit@1', 'ndcg@10_exponential')
    """
    given = METRICS.check(node)
    name, cutoff = given.pop("name"), given.pop("k", None)
    defaults = options(METRICS.get(name))
    unusual = [str(value) for option, value in given.items() if value != defaults[option].default]
    return "_".join([name if cutoff is None else f"{name}@{cutoff}", *unusual])


@METRICS.register("hit")
def hit(
    above: Float[Tensor, "B P"],
    tied: Float[Tensor, "B P"],
    labels: Float[Tensor, "B P"],
    relevant: Bool[Tensor, "B P"],
    /,
    *,
    k: Rank = 1,
) -> Float[Tensor, " B"]:
    """Whether a relevant candidate is among the top k; hit@1 is the accuracy of the top candidate.

    Args:
        k: How many of the best scored candidates to look at.

    Example:
        >>> one, yes = torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool)
        >>> hit(2 * one, one, one, yes, k=3)  # the third or fourth of all
        tensor([0.5000])
    """
    return _first_relevant(above, tied, relevant, _cutoff(k), lambda rank: torch.ones_like(rank))


@METRICS.register("mrr")
def mrr(
    above: Float[Tensor, "B P"],
    tied: Float[Tensor, "B P"],
    labels: Float[Tensor, "B P"],
    relevant: Bool[Tensor, "B P"],
    /,
    *,
    k: Rank | None = None,
) -> Float[Tensor, " B"]:
    """Reciprocal rank of the first relevant candidate; the mean over queries is the MRR.

    Args:
        k: A first relevant candidate below rank k counts as 0; null for no limit.

    Example:
        >>> one, yes = torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool)
        >>> mrr(one, one, one, yes)  # (1/2 + 1/3) / 2
        tensor([0.4167])
    """
    return _first_relevant(above, tied, relevant, _cutoff(k), torch.reciprocal)


@METRICS.register("ndcg")
def ndcg(
    above: Float[Tensor, "B P"],
    tied: Float[Tensor, "B P"],
    labels: Float[Tensor, "B P"],
    relevant: Bool[Tensor, "B P"],
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
        >>> one, yes = torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool)
        >>> ndcg(one, 0 * one, one, yes)  # 1 / log2(3)
        tensor([0.6309])
    """
    above, tied = _checked(above, tied, labels > 0)
    gains = torch.where(labels > 0, labels.double(), 0)
    if gain == "exponential":
        gains = gains.exp2() - 1
    limit = math.inf if _cutoff(k) is None else float(k or 0)
    end = (above + tied + 1).clamp(max=limit)
    discount = (_discounts(end) - _discounts(above.clamp(max=limit))) / (tied + 1)
    found = torch.where(above < limit, gains * discount, 0).sum(dim=1)
    ranks = torch.arange(1, gains.shape[1] + 1, device=gains.device, dtype=torch.float64)
    ideal = (gains.sort(dim=1, descending=True).values / (1 + ranks).log2())[:, :k].sum(dim=1)
    return (found / torch.where(ideal > 0, ideal, 1)).float()


@METRICS.register("recall")
def recall(
    above: Float[Tensor, "B P"],
    tied: Float[Tensor, "B P"],
    labels: Float[Tensor, "B P"],
    relevant: Bool[Tensor, "B P"],
    /,
    *,
    k: Rank,
) -> Float[Tensor, " B"]:
    """Share of the relevant candidates that are among the top k.

    Args:
        k: How many of the best scored candidates to look at.

    Example:
        >>> yes = torch.ones(1, 2, dtype=torch.bool)
        >>> recall(torch.tensor([[6.0, 2.0]]), torch.zeros(1, 2), torch.ones(1, 2), yes, k=3)
        tensor([0.5000])
    """
    return _found(above, tied, relevant, k) / relevant.sum(dim=1).clamp(min=1)


@METRICS.register("precision")
def precision(
    above: Float[Tensor, "B P"],
    tied: Float[Tensor, "B P"],
    labels: Float[Tensor, "B P"],
    relevant: Bool[Tensor, "B P"],
    /,
    *,
    k: Rank,
) -> Float[Tensor, " B"]:
    """Share of the top k that are relevant; places that a short list leaves empty count as not relevant.

    Args:
        k: How many of the best scored candidates to look at.

    Example:
        >>> yes = torch.ones(1, 2, dtype=torch.bool)
        >>> precision(torch.tensor([[6.0, 1.0]]), torch.zeros(1, 2), torch.ones(1, 2), yes, k=2)
        tensor([0.5000])
    """
    return _found(above, tied, relevant, k) / k


@METRICS.register("chosen")
def chosen(
    above: Float[Tensor, "B P"],
    tied: Float[Tensor, "B P"],
    labels: Float[Tensor, "B P"],
    relevant: Bool[Tensor, "B P"],
    /,
) -> Float[Tensor, " B"]:
    """The label of the top candidate: what a router earns with the model that it chooses.

    Example:
        >>> yes = torch.ones(1, 3, dtype=torch.bool)
        >>> above, tied, labels = torch.tensor([[0.0, 0.0, 2.0], [1.0, 1.0, 0.0], [0.2, -0.6, 1.0]]).unsqueeze(1)
        >>> chosen(above, tied, labels, yes)  # (0.2 - 0.6) / 2
        tensor([-0.2000])
    """
    above, tied = _checked(above, tied, torch.ones_like(relevant))
    return torch.where(above < 1, labels.double() / (tied + 1), 0).sum(dim=1).float()


@METRICS.register("win_rate")
def win_rate(
    above: Float[Tensor, "B P"],
    tied: Float[Tensor, "B P"],
    labels: Float[Tensor, "B P"],
    relevant: Bool[Tensor, "B P"],
    /,
) -> Float[Tensor, " B"]:
    """How often the top candidate wins against a fixed reference: its label, a preference (AlpacaEval's win rate).

    The label is the probability that a judge prefers the candidate to the reference. A candidate without a label counts
    as 0.

    Raises:
        ValueError: If a label lies outside [0, 1].

    Note:
        AlpacaEval prints a hundred times this number.

    Example:
        >>> yes = torch.ones(1, 3, dtype=torch.bool)
        >>> above, tied, labels = torch.tensor([[0.0, 0.0, 2.0], [1.0, 1.0, 0.0], [0.2, 0.6, 1.0]]).unsqueeze(1)
        >>> win_rate(above, tied, labels, yes)  # (0.2 + 0.6) / 2
        tensor([0.4000])
    """
    if bool(((labels < 0) | (labels > 1)).any()):
        low, high = labels.min().item(), labels.max().item()
        raise ValueError(f"win_rate needs preferences in [0, 1] as labels, these go from {low:g} to {high:g}")
    above, tied = _checked(above, tied, labels > 0)
    return torch.where(above < 1, labels.double() / (tied + 1), 0).sum(dim=1).float()


def _found(
    above: Float[Tensor, "B P"], tied: Float[Tensor, "B P"], relevant: Bool[Tensor, "B P"], k: int
) -> Float[Tensor, " B"]:
    """How many relevant candidates to expect among the top k."""
    _cutoff(k)
    above, tied = _checked(above, tied, relevant)
    return torch.where(relevant, ((k - above) / (tied + 1)).clamp(0, 1), 0).sum(dim=1).float()


def _first_relevant(
    above: Float[Tensor, "B P"],
    tied: Float[Tensor, "B P"],
    relevant: Bool[Tensor, "B P"],
    k: int | None,
    value: Callable[[Tensor], Tensor],
) -> Float[Tensor, " B"]:
    """The expected value of the rank of the first relevant candidate, 0 where it is not among the top k.

    All that matters is the tie that holds the relevant candidates with the fewest above them. If R of its n candidates
    are relevant, the first of them is further back than j of these with probability C(n - j, R) / C(n, R).
    """
    above, tied = _checked(above, tied, relevant)
    above = torch.where(relevant, above, torch.inf)
    start, at = above.min(dim=1)
    size = tied.gather(1, at.unsqueeze(1)).squeeze(1) + 1
    among = (above == start.unsqueeze(1)).sum(dim=1).clamp(max=size)
    limit = math.inf if k is None else float(k)
    found = torch.where(start < limit, value(start + 1), 0)
    mixed = ((size > among) & start.isfinite()).nonzero().flatten()
    for rows in mixed.split(_ROWS) if len(mixed) else ():
        found[rows] = _over_tie(start[rows], size[rows], among[rows], limit, value)
    return found.float()


def _over_tie(
    start: Float[Tensor, " b"],
    size: Float[Tensor, " b"],
    among: Float[Tensor, " b"],
    limit: float,
    value: Callable[[Tensor], Tensor],
) -> Float[Tensor, " b"]:
    """The same for ties of `size` candidates, `among` them relevant, that begin below `start` others."""
    last = (size - among + 1).clamp(max=limit - start).clamp(min=0)  # the furthest back that counts
    edges = _edges(int(last.max())).to(start.device)
    edges = edges.minimum(last.unsqueeze(1))
    n, many = size.unsqueeze(1), among.unsqueeze(1)
    beyond = torch.where(edges > n - many, 0, (_log_choose(n - edges, many) - _log_choose(n, many)).exp())
    ranks = start.unsqueeze(1) + (edges[:, :-1] + 1 + edges[:, 1:]) / 2
    return (beyond.diff(dim=1).neg() * value(ranks)).sum(dim=1)


def _edges(last: int) -> Float[Tensor, " e"]:
    """0, 1, 2 and so on up to `_EXACT`, from there on in steps of a thousandth, up to `last`."""
    exact = torch.arange(min(last, _EXACT) + 1, dtype=torch.float64)
    if last <= _EXACT:
        return exact
    steps = torch.arange(1, math.ceil(math.log(last / _EXACT) / math.log(1.001)) + 1, dtype=torch.float64)
    return torch.cat([exact, (_EXACT * 1.001**steps).round()])


def _log_choose(n: Float[Tensor, "..."], k: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return (n + 1).lgamma() - (n - k + 1).clamp(min=1).lgamma() - (k + 1).lgamma()


def _discounts(ranks: Float[Tensor, "B P"]) -> Float[Tensor, "B P"]:
    """The sum of 1 / log2(1 + r) over the ranks r up to each of these; 0 for infinite ones, which nobody asks for.

    Far down it is the logarithmic integral, by Euler and Maclaurin's formula.
    """
    first = (1 / torch.arange(2, _EXACT + 2, dtype=torch.float64).log2()).cumsum(0)
    table = torch.cat([torch.zeros(1, dtype=torch.float64), first]).to(ranks.device)
    ranks = ranks.nan_to_num(posinf=0)
    near = table[ranks.clamp(max=_EXACT).long()]
    if not bool((ranks > _EXACT).any()):
        return near
    from scipy.special import expi  # takes a third of a second to import, so only those pay who have long lists

    def smooth(x: Tensor) -> Tensor:
        log = (1 + x).log()
        integral = torch.from_numpy(expi(log.cpu().numpy())).to(x.device)
        return math.log(2) * (integral + 1 / (2 * log) - 1 / (12 * (1 + x) * log**2))

    base = smooth(torch.full((1,), float(_EXACT), dtype=torch.float64, device=ranks.device))
    return torch.where(ranks > _EXACT, near + smooth(ranks.clamp(min=_EXACT)) - base, near)


def _checked(
    above: Float[Tensor, "B P"], tied: Float[Tensor, "B P"], judged: Bool[Tensor, "B P"]
) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B P"]]:
    """The places in float64, nowhere for candidates that nobody judged."""
    if bool((judged & ~((above >= 0) & (tied >= 0))).any()):
        raise ValueError("judged candidates must have 0 or more candidates above and beside them")
    return torch.where(judged, above.double(), torch.inf), torch.where(judged, tied.double(), 0)


def _cutoff(k: int | None) -> int | None:
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    return k
