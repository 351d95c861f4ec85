"""Vectors side by side, and the covariance that gives the variance of scores."""

import pytest
import torch

from ranking.vectors.search import as_pool, inverse_norms
from ranking.vectors.side_by_side import SideBySide, covariance

CPU = torch.device("cpu")


@pytest.mark.parametrize("spread", [1.0, 0.01], ids=["apart", "close together"])
def test_a_covariance_gives_the_standard_deviation_of_scores(spread: float) -> None:
    torch.manual_seed(0)
    centre = torch.randn(16)
    vectors = centre + spread * torch.randn(70_000, 16)  # more than one block
    norms = inverse_norms(vectors)
    queries = torch.nn.functional.normalize(centre + spread * torch.randn(5, 16), dim=1)
    scores = (vectors * norms.unsqueeze(1)).double() @ queries.double().T
    found = ((queries @ covariance(vectors, norms, CPU)) * queries).sum(dim=1).sqrt()
    torch.testing.assert_close(found.double(), scores.std(dim=0, correction=0), rtol=1e-3, atol=0)


def test_the_vectors_of_a_candidate_stand_one_after_the_other() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(10, 3), torch.randn(10, 2).half()
    norms = inverse_norms(second)
    joined = SideBySide([as_pool(first), as_pool(second)], [None, norms], CPU)
    whole = torch.cat([first, torch.nn.functional.normalize(second.float(), dim=1)], dim=1)
    torch.testing.assert_close(torch.cat([*joined.blocks(size=4)]), whole)
    torch.testing.assert_close(torch.cat([*joined.blocks(3, 8, size=4)]), whole[3:8])
    rows = torch.tensor([7, 0, 7])
    torch.testing.assert_close(joined.features(rows), whole[rows])
