"""Losses: one number for how badly scores order the candidates of each group.

Every loss is a pure function of scores, labels and mask, computed in fp32. Masked candidates take no part, whatever
their scores and labels hold. Every loss is the mean of the losses of the B groups, so that it does not matter how
groups of whatever size are shared out among batches and processes. A group from which a loss has nothing to learn
counts as 0.

Notation: s are scores, y labels, of the candidates that exist; candidates with y > 0 are positive.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from registry import LOSSES
from registry.ranges import NonNegative, Positive, Rank, Temperature

# Far below any score, yet differences from it stay finite, which -inf would not.
_NEVER = torch.finfo(torch.float32).min / 4


@LOSSES.register("listwise_kl")
def listwise_kl(
    scores: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"], /
) -> Float[Tensor, ""]:
    """Divergence of the scores' softmax from the normalised labels (Language Ranker, Eqs. 5-6).

    KL(pi_y || pi_s) with pi_y = y / sum(y) and pi_s = softmax(s); 0 for a group without a positive. Labels below 0
    count as 0.

    Example:
        >>> yes = torch.ones(1, 2, dtype=torch.bool)
        >>> listwise_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), yes)  # ln 2
        tensor(0.6931)
    """
    gains = _keep(labels, mask, 0.0).clamp(min=0)
    total = gains.sum(dim=-1, keepdim=True)
    target = gains / torch.where(total > 0, total, 1)
    log_softmax = _keep(scores, mask, _NEVER).log_softmax(dim=-1)
    return _mean((torch.xlogy(target, target) - target * log_softmax).sum(dim=-1), total.squeeze(-1) > 0)


@LOSSES.register("bce")
def bce(scores: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"], /) -> Float[Tensor, ""]:
    """Binary cross-entropy of each candidate on its own (Language Ranker, Eqs. 8-9).

    -(y log p + (1 - y) log(1 - p)) with p = sigmoid(s), averaged over the candidates of a group. Labels may be soft.

    Raises:
        ValueError: If a label lies outside [0, 1]: scale the labels, or use `mse`.

    Example:
        >>> yes = torch.ones(1, 2, dtype=torch.bool)
        >>> bce(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), yes)  # ln 2
        tensor(0.6931)
    """
    targets = _keep(labels, mask, 0.0)
    if ((targets < 0) | (targets > 1)).any():
        low, high = targets.min().item(), targets.max().item()
        raise ValueError(
            f"bce needs labels in [0, 1], these go from {low:g} to {high:g}: scale them, or use the loss mse"
        )
    losses = F.binary_cross_entropy_with_logits(_keep(scores, mask, 0.0), targets, reduction="none")
    return _mean(torch.where(mask, losses, 0).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1), mask.any(dim=-1))


@LOSSES.register("mse")
def mse(scores: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"], /) -> Float[Tensor, ""]:
    """Squared distance of scores from real labels (Language Ranker, Eqs. 7 and 10).

    (s - y)^2, averaged over the candidates of a group.

    Example:
        >>> yes = torch.ones(1, 2, dtype=torch.bool)
        >>> mse(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]]), yes)  # (1 + 4) / 2
        tensor(2.5000)
    """
    errors = (_keep(scores, mask, 0.0) - _keep(labels, mask, 0.0)).square()
    size = mask.sum(dim=-1)
    return _mean(errors.sum(dim=-1) / size.clamp(min=1), size > 0)


@LOSSES.register("pairwise_logistic")
def pairwise_logistic(
    scores: Float[Tensor, "B K"],
    labels: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"],
    /,
    *,
    margin: NonNegative = 0.0,
    centering: NonNegative = 0.0,
) -> Float[Tensor, ""]:
    """Logistic loss of each pair with different labels (RankNet, Burges et al. 2005; Bradley and Terry 1952).

    log(1 + exp(s_j - s_i + margin (y_i - y_j))) + centering (s_i + s_j)^2, averaged over the pairs of a group with
    y_i > y_j.

    Args:
        margin: By how much the better score should be higher, per unit of difference of the labels (Llama 2, Touvron et
            al. 2023, eq. 2).
        centering: Weight of a penalty that keeps scores near 0, since a difference does not (Eisenstein et al. 2023,
            arXiv 2312.09244).

    Example:
        >>> yes = torch.ones(1, 2, dtype=torch.bool)
        >>> pairwise_logistic(torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, 0.0]]), yes)  # ln 2
        tensor(0.6931)
    """
    winners, pairs = _pairs(labels, mask)
    scores = _keep(scores, mask, 0.0)
    apart = _differences(scores, winners)
    if margin:
        apart = apart - margin * _differences(_keep(labels, mask, 0.0), winners)
    losses = F.softplus(-apart)
    if centering:
        sums = scores.gather(-1, winners).unsqueeze(-1) + scores.unsqueeze(-2)
        losses = losses + centering * sums.square()
    count = pairs.sum(dim=(-2, -1))
    return _mean(torch.where(pairs, losses, 0).sum(dim=(-2, -1)) / count.clamp(min=1), count > 0)


@LOSSES.register("listnet")
def listnet(
    scores: Float[Tensor, "B K"],
    labels: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"],
    /,
    *,
    label_temperature: Temperature = 1.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of the top-one probabilities that labels and scores give (ListNet, Cao et al. 2007).

    -sum softmax(y / t) log softmax(s); 0 for a group whose labels are all the same.

    Args:
        label_temperature: Divides the labels; the smaller, the more of the target the best label gets.

    Raises:
        ValueError: If the temperature is not above 0.

    Example:
        >>> yes = torch.ones(1, 2, dtype=torch.bool)
        >>> listnet(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), yes)  # ln 2
        tensor(0.6931)
    """
    if label_temperature <= 0:
        raise ValueError(f"listnet: label_temperature must be above 0, not {label_temperature:g}")
    target = _keep(labels / label_temperature, mask, _NEVER).softmax(dim=-1)
    log_softmax = _keep(scores, mask, _NEVER).log_softmax(dim=-1)
    differ = _keep(labels, mask, -torch.inf).amax(dim=-1) > _keep(labels, mask, torch.inf).amin(dim=-1)
    return _mean(-torch.where(mask, target * log_softmax, 0).sum(dim=-1), differ)


@LOSSES.register("lambda_loss")
def lambda_loss(
    scores: Float[Tensor, "B K"],
    labels: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"],
    /,
    *,
    scheme: Literal["lambdarank", "ndcg_loss2", "ndcg_loss2pp"] = "ndcg_loss2pp",
    sigma: Positive = 1.0,
    mu: NonNegative = 10.0,
    k: Rank | None = None,
) -> Float[Tensor, ""]:
    """Logistic loss of pairs, each weighted by what it means for nDCG (LambdaLoss, Wang et al. 2018).

    sum over pairs with y_i > y_j of w_ij log2(1 + exp(-sigma (s_i - s_j))).
    With gains G = (2^y - 1) / ideal DCG, discounts D(r) = log2(1 + r) and the ranks r that the scores give now, w_ij is
    |G_i - G_j| times |1/D(r_i) - 1/D(r_j)| (lambdarank), times |1/D(d) - 1/D(d + 1)| with d = |r_i - r_j|
    (ndcg_loss2), or times mu of the latter plus the former (ndcg_loss2pp). Labels below 0 have gain 0.

    Args:
        scheme: How pairs are weighted.
        sigma: Steepness of the logistic function.
        mu: Share of ndcg_loss2 in ndcg_loss2pp.
        k: Only pairs with a candidate among the k best scored count, and gains are relative to the ideal DCG at k.

    Raises:
        ValueError: If k is below 1.

    Example:
        >>> yes = torch.ones(1, 2, dtype=torch.bool)
        >>> scores, labels = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
        >>> lambda_loss(scores, labels, yes, scheme="lambdarank")  # 1 - 1 / log2(3)
        tensor(0.3691)
    """
    if k is not None and k < 1:
        raise ValueError(f"lambda_loss: k must be at least 1, not {k}")
    winners, pairs = _pairs(labels, mask)
    scores = _keep(scores, mask, 0.0)
    with torch.no_grad():
        gains = _keep(labels, mask, 0.0).clamp(min=0).exp2() - 1
        positions = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=torch.float32)
        ideal = (gains.sort(dim=-1, descending=True).values / (1 + positions).log2())[:, :k].sum(dim=-1, keepdim=True)
        order = torch.where(mask, scores, _NEVER).argsort(dim=-1, descending=True, stable=True)
        ranks = torch.empty_like(scores).scatter_(-1, order, positions.expand_as(scores))
        weights = _differences(gains / torch.where(ideal > 0, ideal, 1), winners).abs() * _discounts(
            ranks, winners, scheme, mu
        )
        if k is not None:
            weights *= (ranks.gather(-1, winners).unsqueeze(-1) <= k) | (ranks.unsqueeze(-2) <= k)
    losses = F.softplus(-sigma * _differences(scores, winners)) / math.log(2)
    return _mean(torch.where(pairs, weights * losses, 0).sum(dim=(-2, -1)), pairs.any(dim=-1).any(dim=-1))


@LOSSES.register("infonce")
def infonce(
    scores: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"], /
) -> Float[Tensor, ""]:
    """Cross-entropy of finding each positive among the negatives of its group (InfoNCE, van den Oord et al. 2018).

    -log(exp(s_i) / (exp(s_i) + sum of exp(s_j) over the negatives j)), averaged over the positives i of a group;
    0 for a group that has no positive or no negative. Unlike in `listwise_kl`, positives do not compete with one
    another.

    Example:
        >>> yes = torch.ones(1, 3, dtype=torch.bool)
        >>> infonce(torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]]), yes)  # ln 2
        tensor(0.6931)
    """
    positive = mask & (labels > 0)
    negative = mask & ~positive
    rivals = _keep(scores, negative, _NEVER).logsumexp(dim=-1, keepdim=True)
    losses = torch.where(positive, F.softplus(rivals - _keep(scores, positive, 0.0)), 0)
    count = positive.sum(dim=-1)
    return _mean(losses.sum(dim=-1) / count.clamp(min=1), (count > 0) & negative.any(dim=-1))


@LOSSES.register("bpr_max")
def bpr_max(
    scores: Float[Tensor, "B K"],
    labels: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"],
    /,
    *,
    regularization: NonNegative = 1.0,
) -> Float[Tensor, ""]:
    """Pairwise loss against the negatives that score highest (Hidasi and Karatzoglou 2018, arXiv 1706.03847, eq. 11).

    -log(sum_j w_j sigmoid(s_i - s_j)) + regularization sum_j w_j s_j^2, with w the softmax of the scores of the
    negatives j, averaged over the positives i of a group; 0 for a group that has no positive or no negative.

    Args:
        regularization: Weight of the penalty on high scores of negatives.

    Example:
        >>> yes = torch.ones(1, 2, dtype=torch.bool)
        >>> bpr_max(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), yes)  # ln 2
        tensor(0.6931)
    """
    positive = mask & (labels > 0)
    negative = mask & ~positive
    wrong = _keep(scores, negative, _NEVER)
    log_weights = wrong.log_softmax(dim=-1)
    penalty = (log_weights.exp() * _keep(scores, negative, 0.0).square()).sum(dim=-1, keepdim=True)
    above = F.logsigmoid(_keep(scores, positive, 0.0).unsqueeze(-1) - _keep(scores, negative, 0.0).unsqueeze(-2))
    pairs = torch.where(negative, log_weights, -torch.inf).unsqueeze(-2) + above
    has_both = positive.any(dim=-1) & negative.any(dim=-1)
    likely = torch.where(has_both[:, None, None], pairs, 0).logsumexp(dim=-1)
    losses = torch.where(positive, regularization * penalty - likely, 0)
    return _mean(losses.sum(dim=-1) / positive.sum(dim=-1).clamp(min=1), has_both)


def _keep(values: Float[Tensor, "B K"], kept: Bool[Tensor, "B K"], other: float) -> Float[Tensor, "B K"]:
    """The values in fp32, with another in place of those not kept; no gradient reaches these, even if they are nan."""
    return torch.where(kept, values.float(), other)


def _mean(values: Float[Tensor, " B"], part: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """Mean over all groups, those that take no part counting as 0."""
    return torch.where(part, values, 0).sum() / max(1, len(values))


def _pairs(labels: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"]) -> tuple[Int[Tensor, "B W"], Bool[Tensor, "B W K"]]:
    """Places of the W candidates that can win a pair, and which of all K each of them wins against.

    Only candidates above their group's lowest label can win. Where a batch is scored against thousands of shared
    negatives these are few, so that W x K is far less than K x K.
    """
    floor = _keep(labels, mask, torch.inf).amin(dim=-1, keepdim=True)
    num_winners = int((mask & (labels > floor)).sum(dim=-1).max()) if len(labels) else 0
    labels = _keep(labels, mask, -torch.inf)
    best, winners = labels.topk(num_winners, dim=-1)
    return winners, (best.unsqueeze(-1) > labels.unsqueeze(-2)) & mask.unsqueeze(-2)


def _differences(values: Float[Tensor, "B K"], winners: Int[Tensor, "B W"]) -> Float[Tensor, "B W K"]:
    return values.gather(-1, winners).unsqueeze(-1) - values.unsqueeze(-2)


def _discounts(
    ranks: Float[Tensor, "B K"], winners: Int[Tensor, "B W"], scheme: str, mu: float
) -> Float[Tensor, "B W K"]:
    """By how much the discount of a pair's two candidates differs, as the scheme sees it."""
    swap = _differences(1 / (1 + ranks).log2(), winners).abs()
    if scheme == "lambdarank":
        return swap
    distance = _differences(ranks, winners).abs().clamp(min=1)
    bound = 1 / (1 + distance).log2() - 1 / (2 + distance).log2()
    return bound if scheme == "ndcg_loss2" else mu * bound + swap
