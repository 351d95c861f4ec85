import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.partitioned_candidates import PartitionedCandidates
from rankers.judging import scores as scores_module
from rankers.judging.generation import GenerationJudging
from rankers.judging.judging import Judging
from rankers.judging.scores import ScoreJudging
from rankers.pool_ranker import PoolRanker
from rankers.references.bm25 import BM25Index
from ranking.metrics import mrr, ndcg
from ranking.pools.pool_batch import PoolBatch
from ranking.stores.candidate_pool import CandidatePool
from registry import RANKERS
from training.trainer import build_trainer

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def test_bm25_scores_by_shared_words() -> None:
    texts = ["sort a list of numbers", "open a file", "close the socket", "list files of a folder", "sort files"]
    index = BM25Index(texts)
    assert index.scores("sort numbers").argmax() == 0
    assert index.scores("unheard of").tolist() == [0] * 5


class Given(PoolRanker):
    """Gives scores that were drawn beforehand, with ties."""

    judging: type[Judging] = ScoreJudging

    def forward(self, batch: PoolBatch) -> torch.Tensor:
        return self.table[batch.group]


class Generated(Given):
    """Gives the five best of the same scores, once with an empty place and a candidate twice."""

    judging: type[Judging] = GenerationJudging

    def generate(self, batch: PoolBatch) -> tuple[torch.Tensor, torch.Tensor]:
        scores, rows = self.table[batch.group].topk(5)
        return torch.cat([scores, scores[:, :1] - 9, scores[:, :1]], 1), torch.cat(
            [rows, rows[:, :1], torch.full_like(rows[:, :1], -1)], 1
        )


def judge(ranker: PoolRanker, pool: CandidatePool, folder: Path, **options: Any) -> Any:
    data = PartitionedCandidates(str(pool.path), verify=False, num_partitions=2, eval_batch_size=7, **options)
    build_trainer(QUIET, folder=folder).test(ranker, datamodule=data, verbose=False)
    return ranker.evaluation


def expected(scores: torch.Tensor, pool: CandidatePool, query: int, removed: set[int]) -> float:
    """The reciprocal rank of the first relevant candidate, ties at their expectation, by a loop over orders."""
    known = pool.queries
    start, end = int(known.relevant_offsets[query]), int(known.relevant_offsets[query + 1])
    relevant = {
        int(row)
        for row, label in zip(known.relevant[start:end], known.label[start:end], strict=True)
        if label > 0 and label >= pool.min_label
    }
    draws = []
    for seed in range(400):
        noise = torch.rand(len(scores), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1e-3
        order = [row for row in (scores.double() + noise).argsort(descending=True).tolist() if row not in removed]
        found = [rank for rank, row in enumerate(order, start=1) if row in relevant]
        draws.append(1 / found[0] if found else 0)
    return sum(draws) / len(draws)


@pytest.mark.parametrize("exclude_history", [False, True])
def test_scores_of_all_candidates_are_judged_as_a_sort_would(
    pool: CandidatePool, tmp_path: Path, exclude_history: bool
) -> None:
    ranker = Given(metrics=["mrr"])
    draw = torch.Generator().manual_seed(0)
    ranker.table = torch.randint(0, 40, (pool.queries.num_queries, pool.num_candidates), generator=draw).float()
    evaluation = judge(ranker, pool, tmp_path, exclude_history=exclude_history)
    known, found = pool.queries, evaluation.per_query({"mrr": mrr})["mrr"]
    assert len(found) == len(evaluation.queries) > 5
    for query, value in zip(evaluation.queries.tolist(), found.tolist(), strict=True):
        history = known.history[known.history_offsets[query] : known.history_offsets[query + 1]].tolist()
        relevant = known.relevant[known.relevant_offsets[query] : known.relevant_offsets[query + 1]].tolist()
        removed = set(history) - set(relevant) if exclude_history else set()
        assert value == pytest.approx(expected(ranker.table[query], pool, query, removed), abs=0.03)
    for query, ranked in evaluation.rankings():
        rows = [row for row, _, _ in ranked[:9]]
        best = ranker.table[query, rows]
        assert best.tolist() == sorted(best.tolist(), reverse=True) and best[0] == max(
            ranker.table[query, row] for row in range(pool.num_candidates) if row in rows or not exclude_history
        )


def test_what_was_not_generated_is_never_found(pool: CandidatePool, tmp_path: Path) -> None:
    scores, generated = Given(metrics=["ndcg@5"]), Generated(metrics=["ndcg@5"])
    table = torch.rand(pool.queries.num_queries, pool.num_candidates, generator=torch.Generator().manual_seed(1))
    known = pool.queries
    for query in range(known.num_queries):  # a relevant one on top, another at the very end
        rows = known.relevant[known.relevant_offsets[query] : known.relevant_offsets[query + 1]].long()
        table[query, rows[:1]], table[query, rows[1:]] = 2.0, -1.0
    scores.table = generated.table = table
    five = {"ndcg@5": lambda *given: ndcg(*given, k=5)}
    ours, full = judge(generated, pool, tmp_path), judge(scores, pool, tmp_path)
    assert torch.equal(ours.per_query(five)["ndcg@5"], full.per_query(five)["ndcg@5"])
    assert all(len(ranked) == 5 for _, ranked in ours.rankings())
    assert float(ours.per_query({"mrr": mrr})["mrr"].mean()) > 0.9


def test_popularity_counts_the_training_queries_that_met_a_candidate(pool: CandidatePool, tmp_path: Path) -> None:
    ranker, known = RANKERS.build("popularity"), pool.queries
    judge(ranker, pool, tmp_path)
    data, counts = PartitionedCandidates(str(pool.path), verify=False, num_partitions=2), [0] * pool.num_candidates
    for query in data.queries("train").tolist():
        relevant = known.relevant[known.relevant_offsets[query] : known.relevant_offsets[query + 1]].tolist()
        history = known.history[known.history_offsets[query] : known.history_offsets[query + 1]].tolist()
        for row in {*relevant, *history}:
            counts[row] += 1
    _, ranked = next(iter(ranker.evaluation.rankings()))
    assert [math.expm1(score) for _, score, _ in ranked] == pytest.approx(sorted(counts, reverse=True), abs=1e-4)


@pytest.mark.parametrize("name", ["popularity", "recency"])
def test_other_training_queries_of_the_same_pool_are_counted_anew(
    pool: CandidatePool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker: Any = RANKERS.build(name)
    data, found = PartitionedCandidates(str(pool.path), verify=False, num_partitions=2), []
    ranker._trainer = SimpleNamespace(datamodule=data)
    for queries in (torch.arange(4), torch.arange(4, 12)):
        monkeypatch.setattr(data, "queries", lambda split, queries=queries: queries)
        found.append(ranker.candidates_to_rank())
    assert not torch.equal(*found)


def test_the_encoder_is_judged_by_the_cosine_of_stored_vectors(pool: CandidatePool, tmp_path: Path) -> None:
    ranker = RANKERS.build("encoder")
    judge(ranker, pool, tmp_path)
    vectors = pool.features(torch.arange(pool.num_candidates)).double()
    for query, ranked in ranker.evaluation.rankings():
        one = pool.queries.features(torch.tensor([query])).double()[0]
        cosine = vectors @ one / vectors.norm(dim=1) / one.norm()
        assert [score for _, score, _ in ranked[:5]] == pytest.approx(cosine.topk(5).values.tolist(), abs=1e-5)


def test_references_beside_a_ranker_find_what_they_find_alone_and_see_each_query_once(
    pool: CandidatePool, tmp_path: Path
) -> None:
    alone = {name: RANKERS.build(name, metrics=["mrr"]) for name in ("bm25", "encoder", "popularity")}
    values = {name: judge(ranker, pool, tmp_path).per_query({"mrr": mrr})["mrr"] for name, ranker in alone.items()}
    ranker = Given(metrics=["mrr"])
    ranker.table = torch.rand(pool.queries.num_queries, pool.num_candidates)
    asked: list[int] = []
    beside = {name: RANKERS.build(name) for name in alone}
    forward = beside["bm25"].forward
    beside["bm25"].forward = lambda batch: (asked.extend(batch.group.tolist()), forward(batch))[1]
    ranker.references = beside
    data = PartitionedCandidates(str(pool.path), verify=False, num_partitions=2, eval_batch_size=7)
    for _ in range(2):
        build_trainer(QUIET, folder=tmp_path).test(ranker, datamodule=data, verbose=False)
        found = ranker.evaluation.baselines({"mrr": mrr})
        assert {name: each["mrr"].tolist() for name, each in found.items()} == {
            name: each.tolist() for name, each in values.items()
        }
    assert len(asked) == len(set(asked)) == len(values["bm25"])


def test_only_the_best_scores_of_a_batch_stay_in_memory(
    pool: CandidatePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    compute = scores_module._PlacesState.compute

    def looked_at(state: Any) -> Any:
        kept.extend(
            each.untyped_storage().nbytes() // each.itemsize - each.numel() for each in [*state.scores, *state.rows]
        )
        return compute(state)

    monkeypatch.setattr(scores_module._PlacesState, "compute", looked_at)
    monkeypatch.setattr("rankers.judging.pool.RUN_DEPTH", 5)
    ranker = Given(metrics=["mrr"])
    ranker.table = torch.rand(pool.queries.num_queries, pool.num_candidates)
    judge(ranker, pool, tmp_path)
    assert kept and not any(kept)


@pytest.mark.parametrize("name", ["bm25", "encoder"])
def test_a_single_query_is_judged(pool: CandidatePool, tmp_path: Path, name: str) -> None:
    data = PartitionedCandidates(str(pool.path), verify=False, num_partitions=2)
    data._splits["test"] = data._splits["test"][:1]
    ranker = RANKERS.build(name)
    ranker.references = {"popularity": RANKERS.build("popularity")}
    build_trainer(QUIET, folder=tmp_path).test(ranker, datamodule=data, verbose=False)
    assert len(ranker.evaluation.queries) == len(ranker.evaluation.baselines({"mrr": mrr})["popularity"]["mrr"]) == 1


def test_the_encoder_is_no_reference_where_queries_have_no_vectors(pool: CandidatePool) -> None:
    class Bare:
        class pool:
            class queries:
                @staticmethod
                def features(rows: torch.Tensor) -> torch.Tensor:
                    return torch.zeros(len(rows), 4)

        @staticmethod
        def queries(split: str) -> torch.Tensor:
            return torch.arange(3)

    assert RANKERS.build("encoder").lacks(Bare) == "the pool has no vectors of queries"


WORKER = """
import sys
import torch
from pathlib import Path
from datamodules.partitioned_candidates import PartitionedCandidates
from ranking.metrics import mrr
from registry import RANKERS
from training.trainer import build_trainer

data = PartitionedCandidates(sys.argv[1], verify=False, num_partitions=2)
data._splits["test"] = data._splits["test"][:1]
ranker = RANKERS.build("bm25")
ranker.references = {"encoder": RANKERS.build("encoder"), "popularity": RANKERS.build("popularity")}
options = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "enable_progress_bar": False}
build_trainer(options, folder=Path(sys.argv[2])).test(ranker, datamodule=data, verbose=False)
found = ranker.evaluation
value = float(found.baselines({"mrr": mrr})["encoder"]["mrr"])
Path(sys.argv[2], f"found_{ranker.global_rank}").write_text(f"{len(found.queries)} {value}")
"""


@pytest.mark.slow
def test_two_processes_judge_a_single_query(pool: CandidatePool, tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, str(tmp_path / "worker.py"), str(pool.path), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = {(tmp_path / f"found_{rank}").read_text() for rank in range(2)}
    assert len(found) == 1 and found.pop().startswith("1 ")
