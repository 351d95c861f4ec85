"""A mean over depths is that of ListRankers, each of which sees the vectors of its depth only."""

import dataclasses

import pytest
import torch

from rankers.language_ranker.depth_mean import DepthMean
from rankers.language_ranker.list_ranker import ListRanker
from ranking.batch import FeatureBatch

DIM, DEPTHS = 8, 3


def batch() -> FeatureBatch:
    draw = torch.Generator().manual_seed(0)
    return FeatureBatch(
        labels=torch.zeros(5, 4),
        mask=torch.arange(4) < torch.tensor([4, 1, 2, 4, 3]).unsqueeze(1),
        group=torch.arange(5),
        slot=torch.arange(20).view(5, 4),
        unique_queries=torch.randn(5, DEPTHS * DIM, generator=draw),
        unique_candidates=torch.randn(9, DEPTHS * DIM, generator=draw),
        query_index=torch.arange(5),
        candidate_index=torch.randint(0, 9, (5, 4), generator=draw),
    )


def test_the_score_is_the_mean_of_the_scores_at_each_depth() -> None:
    ranker, given = DepthMean(DEPTHS * DIM, DEPTHS, num_blocks=2, temperature=0.1).eval(), batch()
    weights = ranker.state_dict()
    prefixes = ["", *(f"others.{place}." for place in range(DEPTHS - 1))]
    total = torch.zeros(5, 4)
    for place, prefix in enumerate(prefixes):
        alone = ListRanker(DIM, num_blocks=2, temperature=0.1).eval()
        names = alone.state_dict().keys()
        alone.load_state_dict({name: weights[prefix + name] for name in names})
        columns = slice(place * DIM, (place + 1) * DIM)
        total += alone(
            dataclasses.replace(
                given,
                unique_queries=given.unique_queries[:, columns],
                unique_candidates=given.unique_candidates[:, columns],
            )
        )
    torch.testing.assert_close(ranker(given)[given.mask], (total / DEPTHS)[given.mask])


def test_vectors_that_are_not_of_so_many_depths_are_refused() -> None:
    with pytest.raises(ValueError, match="feature_dim 10 is not the size of 3 vectors of the same size"):
        DepthMean(10, 3)
