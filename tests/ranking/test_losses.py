"""Each loss against its definition, written as loops over plain numbers."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from ranking import losses
from registry import LOSSES

Group = list[tuple[float, float]]
NAMES = LOSSES.names()


def log_sum_exp(values: list[float]) -> float:
    return math.log(sum(math.exp(value) for value in values))


def kl_of_group(group: Group) -> float | None:
    total = sum(y for _, y in group if y > 0)
    normaliser = log_sum_exp([s for s, _ in group]) if group else 0
    return sum(y / total * (math.log(y / total) - (s - normaliser)) for s, y in group if y > 0) if total else None


def mse_of_group(group: Group) -> float | None:
    return sum((s - y) ** 2 for s, y in group) / len(group) if group else None


def pairs_of_group(group: Group) -> list[tuple[int, int]]:
    return [(i, j) for i, j in itertools.product(range(len(group)), repeat=2) if group[i][1] > group[j][1]]


def pairwise_of_group(group: Group, margin: float = 0, centering: float = 0) -> float | None:
    terms = [
        math.log(1 + math.exp(group[j][0] - group[i][0] + margin * (group[i][1] - group[j][1])))
        + centering * (group[i][0] + group[j][0]) ** 2
        for i, j in pairs_of_group(group)
    ]
    return sum(terms) / len(terms) if terms else None


def listnet_of_group(group: Group, temperature: float) -> float | None:
    if len({y for _, y in group}) < 2:
        return None
    target = log_sum_exp([y / temperature for _, y in group])
    normaliser = log_sum_exp([s for s, _ in group])
    return -sum(math.exp(y / temperature - target) * (s - normaliser) for s, y in group)


def infonce_of_group(group: Group) -> float | None:
    negatives = [s for s, y in group if y <= 0]
    terms = [log_sum_exp([s, *negatives]) - s for s, y in group if y > 0]
    return sum(terms) / len(terms) if terms and negatives else None


def lambda_of_group(group: Group, scheme: str, sigma: float, mu: float, k: int | None) -> float | None:
    if not pairs_of_group(group):
        return None
    by_score = sorted(range(len(group)), key=lambda i: -group[i][0])
    rank = {i: place + 1 for place, i in enumerate(by_score)}
    gains = sorted((2 ** max(y, 0) - 1 for _, y in group), reverse=True)[:k]
    ideal = sum(gain / math.log2(2 + place) for place, gain in enumerate(gains))
    loss = 0.0
    for i, j in pairs_of_group(group):
        if k is not None and min(rank[i], rank[j]) > k:
            continue
        apart = abs(rank[i] - rank[j])
        swap = abs(1 / math.log2(1 + rank[i]) - 1 / math.log2(1 + rank[j]))
        bound = abs(1 / math.log2(1 + apart) - 1 / math.log2(2 + apart))
        gain = abs(2 ** max(group[i][1], 0) - 2 ** max(group[j][1], 0)) / ideal
        weight = {"lambdarank": swap, "ndcg_loss2": bound, "ndcg_loss2pp": swap + mu * bound}[scheme]
        loss += gain * weight * math.log2(1 + math.exp(-sigma * (group[i][0] - group[j][0])))
    return loss


def bce_of_group(group: Group) -> float | None:
    terms = [-y * math.log(p := 1 / (1 + math.exp(-s))) - (1 - y) * math.log(1 - p) for s, y in group]
    return sum(terms) / len(terms) if terms else None


def mean_over_groups(loss: Callable[..., float | None], groups: list[Group], *options: object) -> float:
    values = [value for group in groups if (value := loss(group, *options)) is not None]
    return sum(values) / len(groups)


def random_batch(kind: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[Group]]:
    """Twelve groups of up to seven, one of them empty and one without a positive, with nan where the mask is False."""
    draw = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(12, 7, generator=draw)
    labels = {
        "binary": torch.randint(0, 2, (12, 7), generator=draw).float(),
        "soft": torch.rand(12, 7, generator=draw),
        "graded": torch.randint(0, 4, (12, 7), generator=draw).float(),
        "real": torch.randn(12, 7, generator=draw),
    }[kind]
    mask = torch.rand(12, 7, generator=draw) < 0.7
    mask[0], labels[1] = False, 0.0
    scores[~mask], labels[~mask] = torch.nan, torch.inf
    groups = [
        [(s.item(), y.item()) for s, y, exists in zip(*row, strict=True) if exists]
        for row in zip(scores.double(), labels.double(), mask, strict=True)
    ]
    return scores, labels, mask, groups


@pytest.mark.parametrize("kind", ["binary", "soft", "graded", "real"])
def test_listwise_kl_is_the_divergence_of_the_definition(kind: str) -> None:
    *batch, groups = random_batch(kind)
    assert losses.listwise_kl(*batch).item() == pytest.approx(mean_over_groups(kl_of_group, groups), rel=1e-5)


@pytest.mark.parametrize("kind", ["binary", "soft"])
def test_bce_is_the_mean_of_the_groups_mean_cross_entropies(kind: str) -> None:
    *batch, groups = random_batch(kind)
    assert losses.bce(*batch).item() == pytest.approx(mean_over_groups(bce_of_group, groups), rel=1e-5)


def test_bce_refuses_labels_outside_0_and_1_but_only_where_a_candidate_exists() -> None:
    scores, labels, mask = torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]), torch.tensor([[True, False]])
    assert losses.bce(scores, labels, mask).item() == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match=r"bce needs labels in \[0, 1\], these go from 1 to 3: .* mse"):
        losses.bce(scores, labels, ~mask | mask)


@pytest.mark.parametrize("kind", ["binary", "real"])
def test_mse_is_the_mean_of_the_groups_means(kind: str) -> None:
    *batch, groups = random_batch(kind)
    assert losses.mse(*batch).item() == pytest.approx(mean_over_groups(mse_of_group, groups), rel=1e-5)


@pytest.mark.parametrize("kind", ["binary", "graded", "real"])
def test_pairwise_logistic_is_the_mean_over_pairs(kind: str) -> None:
    *batch, groups = random_batch(kind)
    expected = mean_over_groups(pairwise_of_group, groups)
    assert losses.pairwise_logistic(*batch).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["binary", "graded"])
def test_margin_and_centering_of_reward_models_are_those_of_their_definitions(kind: str) -> None:
    scores, labels, mask, groups = random_batch(kind)
    found = losses.pairwise_logistic(scores, labels, mask, margin=0.7, centering=0.1)
    assert found.item() == pytest.approx(mean_over_groups(pairwise_of_group, groups, 0.7, 0.1), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("kind", ["binary", "graded", "real"])
def test_listnet_is_the_cross_entropy_of_two_softmaxes(kind: str, temperature: float) -> None:
    *batch, groups = random_batch(kind)
    expected = mean_over_groups(listnet_of_group, groups, temperature)
    assert losses.listnet(*batch, label_temperature=temperature).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["binary", "graded"])
def test_infonce_sets_each_positive_against_the_negatives(kind: str) -> None:
    *batch, groups = random_batch(kind)
    assert losses.infonce(*batch).item() == pytest.approx(mean_over_groups(infonce_of_group, groups), rel=1e-5)


@pytest.mark.parametrize("k", [None, 1, 3])
@pytest.mark.parametrize("scheme", ["lambdarank", "ndcg_loss2", "ndcg_loss2pp"])
@pytest.mark.parametrize("kind", ["binary", "graded", "real"])
def test_lambda_loss_is_the_weighted_sum_over_pairs(kind: str, scheme: str, k: int | None) -> None:
    *batch, groups = random_batch(kind)
    groups = [group for group in groups if kind != "real" or any(y > 0 for _, y in group)]
    batch = [tensor[(batch[1] > 0).logical_and(batch[2]).any(1)] if kind == "real" else tensor for tensor in batch]
    expected = mean_over_groups(lambda_of_group, groups, scheme, 0.7, 5.0, k)
    assert losses.lambda_loss(*batch, scheme=scheme, sigma=0.7, mu=5.0, k=k).item() == pytest.approx(expected, rel=1e-5)


def test_one_positive_among_thousands_costs_what_the_softmax_says() -> None:
    scores = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(4, 5000)
    labels[:, 17] = 1
    mask = torch.ones(4, 5000, dtype=torch.bool)
    expected = torch.nn.functional.cross_entropy(scores.double(), torch.full((4,), 17)).item()
    assert losses.listwise_kl(scores, labels, mask).item() == pytest.approx(expected, rel=1e-5)
    assert losses.infonce(scores, labels, mask).item() == pytest.approx(expected, rel=1e-5)
    pairs = torch.nn.functional.softplus(scores.double() - scores[:, 17:18].double()).sum(dim=-1) - math.log(2)
    expected = (pairs / 4999).mean().item()
    assert losses.pairwise_logistic(scores, labels, mask).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_what_is_masked_changes_neither_loss_nor_gradient(name: str, garbage: float) -> None:
    loss = LOSSES.bind(name)
    scores, labels, mask, _ = random_batch("binary")
    clean = scores.nan_to_num(0).requires_grad_()
    dirty = torch.where(mask, scores, garbage).requires_grad_()
    value = loss(dirty, labels.masked_fill(~mask, garbage), mask)
    assert value == loss(clean, labels.masked_fill(~mask, 0), mask)
    value.backward()
    loss(clean, labels.masked_fill(~mask, 0), mask).backward()
    assert torch.equal(dirty.grad, clean.grad)
    assert dirty.grad.isfinite().all() and not dirty.grad[~mask].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_candidates", [1, 4])
def test_a_batch_without_content_gives_zero_with_a_gradient_of_zero(name: str, num_candidates: int) -> None:
    scores = torch.full((2, num_candidates), torch.nan, requires_grad=True)
    mask = torch.zeros(2, num_candidates, dtype=torch.bool)
    loss = LOSSES.bind(name)(scores, torch.zeros(2, num_candidates), mask)
    assert loss == 0
    loss.backward()
    assert torch.equal(scores.grad, torch.zeros(2, num_candidates))


@pytest.mark.parametrize("name", ["infonce", "lambda_loss", "listnet", "listwise_kl", "pairwise_logistic"])
def test_groups_that_teach_nothing_about_order_count_as_0(name: str) -> None:
    scores, labels = torch.tensor([[1.0, 2.0], [5.0, -5.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    loss = LOSSES.bind(name)
    assert loss(scores, labels, mask) == loss(scores[:1], labels[:1], mask[:1]) / 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e4, 1e-30, 0.0])
def test_gradients_stay_finite_for_extreme_and_tied_scores(name: str, scale: float) -> None:
    scores = (scale * torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, 0.0]])).requires_grad_()
    mask = torch.tensor([[True, True, True], [True, True, False]])
    loss = LOSSES.bind(name)(scores, torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), mask)
    loss.backward()
    assert loss.isfinite() and scores.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_of_half_precision_are_compared_in_full(name: str, dtype: torch.dtype) -> None:
    scores, labels, mask, _ = random_batch("binary")
    half = scores.to(dtype).requires_grad_()
    loss = LOSSES.bind(name)(half, labels, mask)
    assert loss.dtype == torch.float32
    assert loss == LOSSES.bind(name)(half.float(), labels, mask)
    loss.backward()
    assert half.grad.dtype == dtype and half.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    scores, labels, mask, _ = random_batch("binary", seed=1)
    scores = scores.nan_to_num(0).requires_grad_()
    loss = LOSSES.bind(name)
    loss(scores, labels, mask).backward()
    for row, column in [(2, 0), (5, 3), (11, 6)]:
        step = torch.zeros_like(scores)
        step[row, column] = 1e-2
        slope = (loss(scores + step, labels, mask) - loss(scores - step, labels, mask)).item() / 2e-2
        assert scores.grad[row, column].item() == pytest.approx(slope, rel=1e-2, abs=1e-4)


def test_options_out_of_range_are_refused() -> None:
    batch = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        losses.lambda_loss(*batch, k=0)
    with pytest.raises(ValueError, match="label_temperature must be above 0, not 0"):
        losses.listnet(*batch, label_temperature=0.0)
