"""Fusion: weighted sums of standardised scores rank the pool, and validation chooses the weights."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.partitioned_candidates import PartitionedCandidates
from rankers.checkpoint import load_ranker, save_pretrained
from rankers.fusion import Fusion
from rankers.judging.share_curve import choose_share
from ranking.metrics import mrr
from ranking.stores.candidate_pool import CandidatePool
from registry import RANKERS, ConfigError
from training.trainer import build_trainer

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def sasrec(pool: CandidatePool, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    ranker = RANKERS.build({"name": "sasrec", "dim": 8, "num_items": pool.num_candidates})
    return save_pretrained(ranker, tmp_path / "sasrec")


@pytest.fixture
def judge(pool: CandidatePool, tmp_path: Path) -> Callable[..., Any]:
    def judge(ranker: Any, split: str = "test") -> Any:
        data = PartitionedCandidates(str(pool.path), verify=False, num_partitions=2, exclude_history=True)
        trainer = build_trainer(QUIET, folder=tmp_path)
        look = trainer.validate if split == "val" else trainer.test
        look(ranker, datamodule=data, verbose=False)
        return ranker.evaluation

    return judge


def standardised(ranker: Any, judge: Callable[..., Any], split: str = "test") -> dict[int, Tensor]:
    """The scores of all candidates for each query, less their mean, over their standard deviation, in float64."""
    judge(ranker, split)
    table = ranker.candidates_to_rank()
    table = table.double() if isinstance(table, Tensor) else ranker.pool.features(torch.arange(200)).double()
    found = {}
    for query, vector in zip(ranker.evaluation.queries.tolist(), ranker._judging._vectors[:, 0], strict=True):
        scores = table @ vector.double()
        std = scores.std(correction=0)
        found[query] = (scores - scores.mean()) / std if std > 1e-9 else torch.zeros_like(scores)
    return found


def reciprocal_rank(scores: Tensor, pool: CandidatePool, query: int) -> float:
    known = pool.queries
    relevant = known.relevant[known.relevant_offsets[query] : known.relevant_offsets[query + 1]].tolist()
    seen = known.history[known.history_offsets[query] : known.history_offsets[query + 1]].tolist()
    order = [row for row in scores.argsort(descending=True).tolist() if row not in seen]
    return 1 / (1 + min(order.index(row) for row in relevant))


def test_scores_are_the_weighted_sum_of_standardised_scores(
    pool: CandidatePool, sasrec: Path, judge: Callable[..., Any]
) -> None:
    weights = [0.5, 0.3, 0.2]
    fusion = Fusion([str(sasrec)], ["encoder", "popularity"], weights=weights)
    found = judge(fusion).per_query({"mrr": mrr})["mrr"].tolist()
    parts = [
        standardised(ranker, judge)
        for ranker in (load_ranker(sasrec), RANKERS.build("encoder"), RANKERS.build("popularity"))
    ]
    for place, (query, ranked) in enumerate(fusion.evaluation.rankings()):
        total = sum(weight * part[query] for weight, part in zip(weights, parts, strict=True))
        assert isinstance(total, Tensor)
        assert found[place] == pytest.approx(reciprocal_rank(total, pool, query))
        rows, scores = [row for row, _, _ in ranked], torch.tensor([score for _, score, _ in ranked]).double()
        gaps = scores - total[rows]
        assert torch.allclose(gaps, gaps.mean(), atol=1e-4), "the fused scores, but for one constant a query"
    assert sum(not part.any() for part in parts[0].values()) == 2, "queries without a history: sasrec has no say"


def test_each_ranker_is_judged_beside_as_it_is_alone(sasrec: Path, judge: Callable[..., Any]) -> None:
    fusion = Fusion([str(sasrec)], ["popularity", "recency"], weights=[0.2, 0.4, 0.4])
    beside = judge(fusion).baselines({"mrr": mrr})
    assert list(beside) == ["sasrec", "popularity", "recency"] == fusion.names
    for name, ranker in {
        "sasrec": load_ranker(sasrec),
        "popularity": RANKERS.build("popularity"),
        "recency": RANKERS.build("recency"),
    }.items():
        alone = judge(ranker).per_query({"mrr": mrr})["mrr"]
        assert beside[name]["mrr"].tolist() == pytest.approx(alone.tolist()), name


@pytest.mark.parametrize("errors", [0.0, 1.0])
def test_one_ranker_after_the_other_joins_with_the_share_that_validation_finds(
    pool: CandidatePool, judge: Callable[..., Any], errors: float
) -> None:
    names, shares = ["popularity", "encoder", "recency"], [0.0, 0.25, 0.5, 0.75, 1.0]
    fusion = Fusion([], names, shares=shares[:-1], standard_errors=errors)
    judge(fusion, "val")
    parts = [standardised(RANKERS.build(name), judge, "val") for name in names]
    weights = [1.0, 0.0, 0.0]
    for place in (1, 2):
        tried = [[share * weight for weight in weights] for share in shares]
        for share, row in zip(shares, tried, strict=True):
            row[place] = 1 - share
        curve = fusion.curves[names[place]]
        for found, row in zip(curve.values.tolist(), tried, strict=True):
            if row[1] == 0:
                continue  # without the encoder there are ties
            for value, query in zip(found, parts[0], strict=True):
                scores = [weight * part[query] for weight, part in zip(row, parts, strict=True)]
                assert value == pytest.approx(reciprocal_rank(torch.stack(scores).sum(dim=0), pool, query))
        weights = tried[choose_share(curve.values, errors)]
    assert fusion.weights == pytest.approx(weights)
    chosen = fusion.findings()["fusion"]
    assert list(chosen["weights"]) == names and math.isclose(sum(chosen["weights"].values()), 1, rel_tol=1e-6)
    assert judge(fusion).per_query({"mrr": mrr}) is not None, "the test uses the weights that validation chose"


def test_what_cannot_be_fused_is_refused(pool: CandidatePool, sasrec: Path, tmp_path: Path) -> None:
    def problem(*given: Any, **options: Any) -> str:
        with pytest.raises(ConfigError) as error:
            Fusion(*given, **options).configure_model()
        return str(error.value)

    assert "ranker.runs: there is 1 of the two or more rankers" in problem([str(sasrec)])
    assert "ranker.weights: 1 weights for 2 rankers" in problem([str(sasrec)], ["encoder"], weights=[1.0])
    assert "ranker.rankers[0]: bm25 does not score a pool by inner products" in problem([str(sasrec)], ["bm25"])
    assert "ranker.rankers[1]: bpr would have to be trained" in problem(
        [], ["encoder", {"name": "bpr", "num_items": 3, "num_users": 2}]
    )
    inner = save_pretrained(Fusion([str(sasrec)], ["encoder"], weights=[0.5, 0.5]), tmp_path / "inner")
    assert "ranker.runs[0]: a fusion cannot be fused" in problem([str(inner)], ["popularity"])
    nested = {"name": "fusion", "rankers": ["encoder", "popularity"]}
    assert "ranker.rankers[1]: a fusion cannot be fused" in problem([], ["recency", nested])
    assert "no ranker here" in problem([str(tmp_path / "nothing")], ["encoder"])
    other = save_pretrained(RANKERS.build({"name": "sasrec", "dim": 8, "num_items": 7}), tmp_path / "other")
    data = PartitionedCandidates(str(pool.path), verify=False, num_partitions=2)
    assert Fusion([str(other)], ["encoder"]).lacks(data) == "sasrec knows 7 items, and the pool has 200"


def test_recency_counts_what_users_met_last_the_most(pool: CandidatePool, judge: Callable[..., Any]) -> None:
    ranker, known = RANKERS.build({"name": "recency", "half_life": 3}), pool.queries
    judge(ranker)
    data, sums = PartitionedCandidates(str(pool.path), verify=False, num_partitions=2), [0.0] * pool.num_candidates
    for query in data.queries("train").tolist():
        relevant = known.relevant[known.relevant_offsets[query] : known.relevant_offsets[query + 1]].tolist()
        history = known.history[known.history_offsets[query] : known.history_offsets[query + 1]].tolist()
        later = {row: len(history) - place for place, row in enumerate(history)} | dict.fromkeys(relevant, 0)
        for row, distance in later.items():
            sums[row] += 2 ** (-distance / 3)
    assert ranker.candidates_to_rank()[:, 0].tolist() == pytest.approx([math.log1p(each) for each in sums], abs=1e-6)
