"""Tokens are chosen by the inverse of the cumulative distribution, cut and sharpened as asked for."""

import numpy as np
import pytest
import torch
from torch import Tensor

from language_models.sampling.token_choice import TokenChoice, inverse, numbers_of
from registry import ConfigError


def by_hand(probabilities: Tensor, number: float) -> int:
    return int((probabilities.double().cumsum(dim=0) <= number).sum())


@pytest.mark.parametrize("tokens", [1, 7, 256, 257, 3000])
def test_the_inverse_is_that_of_a_plain_cumulative_sum(tokens: int) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, tokens, generator=draw)
    numbers = torch.rand(200, generator=draw, dtype=torch.float64)
    found = inverse(logits, numbers)
    expected = [by_hand(row.double().softmax(dim=0), number) for row, number in zip(logits, numbers, strict=True)]
    assert found.tolist() == expected


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_give_tokens_that_can_occur(number: float) -> None:
    logits = torch.full((1, 700), -torch.inf)
    logits[0, [300, 400]] = torch.tensor([0.0, -20.0])
    assert inverse(logits, torch.tensor([number], dtype=torch.float64)).item() in (300, 400)


def test_log_probabilities_are_those_of_the_model_whatever_the_temperature() -> None:
    logits = torch.randn(5, 40)
    for choice in (TokenChoice(), TokenChoice(temperature=1.5), TokenChoice(0.7, top_p=0.8), TokenChoice(0.0)):
        tokens, found, certainty = choice(logits, torch.rand(5))
        torch.testing.assert_close(found, logits.log_softmax(dim=1)[range(5), tokens])
        uniform = torch.full((5, 40), 1 / 40)
        divergence = torch.nn.functional.kl_div(logits.log_softmax(dim=1), uniform, reduction="none").sum(dim=1)
        torch.testing.assert_close(certainty, divergence, rtol=1e-4, atol=1e-5)


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.randn(5, 40)
    assert torch.equal(TokenChoice(0.0)(logits, torch.rand(5))[0], logits.argmax(dim=1))


def kept(choice: TokenChoice, logits: Tensor) -> set[int]:
    """All tokens that some number leads to."""
    numbers = torch.linspace(0, 1, 20_001)[:-1]
    return set(choice(logits.expand(len(numbers), -1), numbers)[0].tolist())


def test_top_k_keeps_the_likeliest() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    assert kept(TokenChoice(top_k=2), logits) == {1, 3}
    assert kept(TokenChoice(top_k=9), logits) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("top_p", "tokens"), [(0.3, {1}), (0.4, {1}), (0.41, {1, 3}), (0.75, {1, 2, 3}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_fewest_that_have_it_together(top_p: float, tokens: set[int]) -> None:
    assert kept(TokenChoice(top_p=top_p), torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()) == tokens


def test_top_p_is_of_what_temperature_and_top_k_leave() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    # Squared and of the first three: 16 : 9 : 4, so the first two have 0.86.
    assert kept(TokenChoice(temperature=0.5, top_k=3, top_p=0.8), logits) == {1, 3}
    assert kept(TokenChoice(temperature=0.5, top_k=3, top_p=0.9), logits) == {1, 2, 3}


def test_wide_distributions_are_cut_like_narrow_ones() -> None:
    flat = torch.arange(5000.0).mul(-1e-4)
    logits = torch.stack([flat, flat * 1000])
    choice = TokenChoice(top_p=0.9)
    probabilities = logits.softmax(dim=1)
    for row in range(2):
        allowed = int((probabilities[row].double().cumsum(dim=0) < 0.9).sum()) + 1
        tokens = choice(logits[row : row + 1].expand(500, -1), torch.linspace(0, 0.999999, 500))[0]
        assert abs(int(tokens.max()) + 1 - allowed) <= 1


def test_frequencies_are_the_probabilities() -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)) / 0.7
    numbers = torch.from_numpy(np.concatenate([numbers_of(3, "q", number, 40) for number in range(1000)]))
    tokens = TokenChoice(temperature=0.7)(logits.expand(len(numbers), -1), numbers)[0]
    shares = tokens.bincount(minlength=12) / len(tokens)
    torch.testing.assert_close(shares, (logits[0] / 0.7).softmax(dim=0), atol=0.01, rtol=0)


def test_numbers_depend_on_seed_query_and_response_alone() -> None:
    numbers = {
        key: tuple(numbers_of(*key, 8))
        for key in [(0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0), (0, "a b", 1), (0, "1 a", 0), (0, "a", 10)]
    }
    assert len(set(numbers.values())) == len(numbers)
    assert tuple(numbers_of(0, "a", 1, 1000)[:8]) == numbers[0, "a", 1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_out_of_range_are_an_error(temperature: float, value: float) -> None:
    with pytest.raises(ConfigError, match=r"features.generator.dtype: the model's logits are not finite"):
        TokenChoice(temperature)(torch.tensor([[0.0, 1.0], [0.0, value]]), torch.tensor([0.5, 0.5]))
