"""Reranking: the places of candidates, many of which the first ranker scores the same."""

from types import SimpleNamespace

import pytest
import torch

from rankers.judging.scores import ScoreJudging
from rankers.text.reranking import Rerank, RerankJudging
from ranking.places import Places
from ranking.pools.pool_evaluation import Qrels

QUERIES, CANDIDATES = 12, 9


@pytest.mark.parametrize("top", [1, 4, CANDIDATES])
def test_what_is_read_stands_above_what_is_not_and_the_best_candidates_have_the_same_places(
    top: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randint(0, 3, (QUERIES, CANDIDATES), generator=draw).float() for _ in range(2))
    there = torch.ones(QUERIES, CANDIDATES, dtype=torch.bool)
    scores, order = first.sort(dim=1, descending=True, stable=True)
    description = {"ranker": {"metrics": [{"name": "mrr"}]}}
    ranker = SimpleNamespace(name="reader", rerank=Rerank(top=top), description=lambda: description)
    known, judging = ScoreJudging(ranker, {}), RerankJudging(ranker, {})
    judging._first, judging._queries = known, torch.arange(QUERIES)
    data = SimpleNamespace(pool=SimpleNamespace(num_candidates=CANDIDATES))
    monkeypatch.setattr(RerankJudging, "data", data)
    monkeypatch.setattr(known, "places", lambda qrels: {"bm25": Places.of_scores(first, there)})
    monkeypatch.setattr(known, "best", lambda k: (scores[:, :k], order[:, :k]))
    monkeypatch.setattr(judging, "_read", lambda rows: second.gather(1, rows))
    every = torch.arange(CANDIDATES).expand(QUERIES, -1)
    found = judging.places(Qrels(torch.arange(QUERIES), every, there.float(), there, torch.zeros(QUERIES, 1)))["reader"]
    read = torch.zeros_like(there).scatter(1, order[:, :top], True)
    assert torch.equal(found.above < top, read)
    best, rows = judging.best(CANDIDATES)
    expected = Places.of_scores(torch.empty_like(best).scatter(1, rows, best), there)
    assert torch.equal(found.above, expected.above) and torch.equal(found.tied, expected.tied)
