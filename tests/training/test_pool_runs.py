"""Whole runs of LRanker: trained, scaled, judged over a pool, stopped, resumed, shared by processes, and served."""

import itertools
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ir_measures
import pytest
import torch
from ir_measures import RR, Qrel, R, nDCG
from offline_runs import missing
from pools import write_pool
from run_configs import train_once
from test_processes import train_here, train_in_processes
from test_resuming import KILLER, run_all
from torch import Tensor

from console.progress import WorkProgress
from datamodules.partitioned_candidates import PartitionedCandidates
from datamodules.pools.mining import MinedLists, Scoring
from language_models.encoder import Encoder
from rankers.checkpoint import load_ranker
from rankers.judging import pool as pool_judging
from rankers.lranker.lranker import LRanker
from ranking.stores.candidate_pool import CandidatePool
from registry import RANKERS, ConfigError, load_config
from registry.config import merge, to_yaml
from serving.searcher import Searcher
from training.run import Run
from training.run import train as train_config
from training.trainer import build_trainer


@pytest.fixture(scope="module")
def usual(pool: CandidatePool, tiny_bert: Path) -> dict[str, Any]:
    """The config of a short run of LRanker on the small pool."""
    return {
        "ranker": {
            "name": "lranker",
            "backbone": {"model": str(tiny_bert)},
            "template": "the value of {query} <|embedding|> key",
            "max_length": 64,
            "aggregator": {"name": "kmeans", "num_centroids": 4},
            "lora": {"rank": 4},
            "temperature": 0.1,
            "optimizer": {"name": "adamw", "lr": 1e-2},
            "scaling": {"widths": [2, 3], "max_depth": 2},
        },
        "datamodule": {
            "name": "partitioned_candidates",
            "path": str(pool.path),
            "batch_size": 8,
            "num_partitions": 4,
            "num_splits": 2,
        },
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False, "gradient_clip_val": 0.5},
    }


@pytest.fixture
def pool_config(usual: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Write its yaml."""

    def write(file: str = "run.yaml", **changes: Any) -> Path:
        (tmp_path / file).write_text(to_yaml(merge({**usual, "runs": str(tmp_path / "runs")}, changes)))
        return tmp_path / file

    return write


@pytest.fixture
def run(pool_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    monkeypatch.setenv("WANDB_MODE", "offline")

    def start(*overrides: str, **changes: Any) -> Run:
        monkeypatch.delenv("RANKERS_RUN_DIR", raising=False)
        return train_config(load_config(pool_config(**changes), overrides), "run")

    return start


@pytest.fixture(scope="module")
def once(usual: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Begin a run that several tests read."""

    def start(*overrides: str) -> Run:
        folder = tmp_path_factory.mktemp("runs")
        (folder / "run.yaml").write_text(to_yaml({**usual, "runs": str(folder)}))
        return train_once(folder / "run.yaml", *overrides)

    return start


@pytest.fixture(scope="module")
def mixed(once: Callable[..., Run]) -> Run:
    """A run with the encoder's share that is best on validation."""
    return once("ranker.mixing.standard_errors=0")


@pytest.fixture(scope="module")
def unmixed(once: Callable[..., Run]) -> Run:
    """A run without the encoder's share."""
    return once("ranker.mixing=null", "logger=wandb")


@pytest.fixture(scope="module")
def encoders(once: Callable[..., Run]) -> Run:
    """A run with nothing but the encoder's share."""
    return once("ranker.mixing.share=1", "ranker.scaling=null", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def encoded(once: Callable[..., Run]) -> Run:
    """A run that encodes candidates anew."""
    return once("ranker.candidates=encoded", "trainer.max_epochs=1")


def test_in_a_log_the_choice_of_width_and_depth_and_the_ranking_tell_how_far_they_are(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = itertools.count(0, 7)  # a clock on which seven seconds pass whenever somebody looks at it
    monkeypatch.setattr(pool_judging, "WorkProgress", partial(WorkProgress, clock=lambda: float(next(looks))))
    run("trainer.enable_progress_bar=true", "trainer.max_epochs=1", "datamodule.batch_size=4")
    told = capsys.readouterr().err
    # 12 queries, each in the whole pool and then twice in two and in three parts of it.
    choosing = r"To choose width and depth, read the queries in {} contexts"
    assert re.search(choosing.format(r"\d+ of 132") + r", \d\.\d contexts/s, \d:\d\d:\d\d left\.\n", told), told
    assert re.search(choosing.format(132) + r" in \d+ s \(\d\.\d contexts/s\)\.\n", told), told
    assert re.search(r"\nRanked 200 candidates in \d+ s", told), told
    assert told.count("Epoch 1 of 1, step") == 2, "before the first step and after the last one"
    assert "Validation:" not in told


def test_a_run_over_a_pool_is_what_ir_measures_finds_in_its_run_file(mixed: Run, pool: CandidatePool) -> None:
    queries = pool.queries
    qrels = [
        Qrel(queries.id(query), pool.id(int(queries.relevant[place])), int(queries.label[place]))
        for query in range(queries.num_queries)
        for place in range(int(queries.relevant_offsets[query]), int(queries.relevant_offsets[query + 1]))
        if queries.split[query] == 2
    ]
    ranking = list(ir_measures.read_trec_run(str(mixed.path / "run.trec")))
    theirs = ir_measures.calc_aggregate([RR, nDCG @ 10, R @ 1, R @ 10, R @ 100], qrels, ranking)
    ours = mixed.metrics["test"]["scorers"]["lranker"]
    names = {"mrr": RR, "ndcg@10": nDCG @ 10, "recall@1": R @ 1, "recall@10": R @ 10, "recall@100": R @ 100}
    for name, measure in names.items():
        assert ours[name]["mean"] == pytest.approx(theirs[measure], abs=1e-6), name
    shown = json.loads((mixed.path / "report.json").read_text())["shown"]
    ranked = {(each.query_id, each.doc_id): each.score for each in ranking}
    for query in shown:
        scores = [ranked[query["id"], each["id"]] for each in query["candidates"]]
        assert scores == pytest.approx([each["score"] for each in query["candidates"]]) and len(scores) >= 10
    assert "Table: Scaling map" in (mixed.path / "report.html").read_text()


def test_a_run_chooses_width_and_depth_on_validation_and_keeps_them(unmixed: Run) -> None:
    assert missing(unmixed.path, "LRanker") == []
    scaling = unmixed.metrics["scaling"]
    assert torch.tensor(scaling["values"]).shape == (2, 3) and scaling["queries"] == 12
    assert max(max(row) for row in scaling["values"]) == pytest.approx(
        unmixed.metrics["val"]["scorers"]["lranker"]["mrr"]["mean"], abs=1e-6
    )
    assert scaling["values"][0][0] == pytest.approx(
        unmixed.metrics["val"]["scorers"]["depth 0"]["mrr"]["mean"], abs=1e-6
    )
    assert (unmixed.path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    described = torch.load(unmixed.path / "best.ckpt", weights_only=True)["ranker"]["ranker"]["scaling"]
    assert (described["width"], described["depth"]) == (scaling["width"], scaling["depth"])
    assert set(unmixed.metrics["test"]["scorers"]) == {"bm25", "encoder", "depth 0", "lranker"}


def test_the_whole_share_of_the_encoder_ranks_as_the_encoder_does(encoders: Run) -> None:
    found = encoders.metrics["test"]["scorers"]
    assert set(found) == {"bm25", "encoder", "unmixed", "lranker"}
    for name, value in found["encoder"].items():
        assert found["lranker"][name]["mean"] == pytest.approx(value["mean"], abs=1e-6)
    assert found["unmixed"]["mrr"]["mean"] != pytest.approx(found["encoder"]["mrr"]["mean"], abs=1e-3)


def test_a_run_chooses_the_encoders_share_on_validation_and_keeps_it(mixed: Run) -> None:
    mixing, val = mixed.metrics["mixing"], mixed.metrics["val"]["scorers"]
    assert set(mixed.metrics["test"]["scorers"]) == {"bm25", "encoder", "depth 0", "unmixed", "lranker"}
    assert mixing["values"][0] == pytest.approx(val["unmixed"]["mrr"]["mean"], abs=1e-6)
    assert mixing["values"][-1] == pytest.approx(val["encoder"]["mrr"]["mean"], abs=1e-6)
    assert max(mixing["values"]) == pytest.approx(val["lranker"]["mrr"]["mean"], abs=1e-6)
    described = torch.load(mixed.path / "best.ckpt", weights_only=True)["ranker"]["ranker"]["mixing"]
    assert described["share"] == mixing["share"] == mixing["shares"][mixing["values"].index(max(mixing["values"]))]


def test_encoded_candidates_are_ranked_by_the_ranker_alone(mixed: Run, encoded: Run) -> None:
    assert "mixing" in mixed.metrics and "mixing" not in encoded.metrics


def test_the_ranker_finds_its_own_negatives_before_every_epoch_but_the_first(
    run: Callable[..., Run], pool: CandidatePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    mine = MinedLists.mine

    def watched(scoring: Scoring, queries: Tensor, depth: int, judgements: Any, **given: Any) -> MinedLists:
        found, candidates = mine(scoring, queries, depth, judgements, **given), pool.features(torch.arange(200))
        scores = scoring.vectors(queries).double() @ candidates.double().T
        for place, right in zip(*judgements.relevant(queries)[:2], strict=True):
            scores[place, right] = -torch.inf
        assert torch.equal(found.rows.long(), scores.topk(depth, dim=1).indices)
        seen.append(scoring.vectors(queries))
        return found

    monkeypatch.setattr(MinedLists, "mine", watched)
    options = ["datamodule.negatives=mined", "datamodule.mined_by=ranker", "datamodule.mine_depth=9"]
    run(*options, "trainer.max_epochs=3", "ranker.scaling=null", "ranker.mixing=null")
    stored = pool.queries.features(pool.queries.split.eq(0).nonzero().flatten())
    assert len(seen) == 3 and torch.allclose(seen[0], stored, atol=1e-6)
    assert not torch.allclose(seen[1], stored, atol=0.1) and not torch.allclose(seen[2], seen[1], atol=1e-3)
    with pytest.raises(ConfigError, match="bm25 does not score a pool") as error:
        run(*options, "ranker={name: bm25}")
    assert error.value.path == "datamodule.mined_by"


def test_a_fusion_of_a_run_ranks_with_all_that_its_validation_chose(run: Callable[..., Run]) -> None:
    finished = run("ranker.mixing.share=0.5", "trainer.max_epochs=1")
    fused = f"ranker={{name: fusion, runs: ['{finished.path}'], rankers: [popularity, encoder]}}"
    alone = finished.metrics["test"]["scorers"]["lranker"]
    found = run(fused, "ranker.standard_errors=0", "references=[bm25]")
    test, weights = found.metrics["test"]["scorers"], found.metrics["fusion"]["weights"]
    assert list(test) == ["bm25", "lranker", "popularity", "encoder", "fusion"]
    for metric, value in alone.items():
        assert test["lranker"][metric]["mean"] == pytest.approx(value["mean"], rel=1e-4), metric
    again = load_ranker(found.path).description()["ranker"]["weights"]
    assert again == pytest.approx(list(weights.values())) and list(weights) == ["lranker", "popularity", "encoder"]
    assert found.metrics["num_parameters"] == 0 and (found.path / "report.html").is_file()


def test_steps_that_do_harm_leave_the_state_before_training_as_the_best(run: Callable[..., Run]) -> None:
    # Steps as large as these make all embeddings the same.
    harm = ["ranker.optimizer.lr=100", "ranker.schedule=constant", "ranker.scaling=null", "ranker.mixing=null"]
    harm.append("trainer.max_epochs=1")
    kept, lost = (run(*harm, f"ranker.start_counts={counts}") for counts in ("true", "false"))
    steps = [torch.load(each.path / "best.ckpt", weights_only=True)["global_step"] for each in (kept, lost)]
    before, after = (each.metrics["val"]["scorers"]["lranker"]["mrr"]["mean"] for each in (kept, lost))
    # Weights are drawn otherwise in other versions of torch; there the steps may do no harm.
    assert steps == ([0, steps[1]] if before > after else [steps[1], steps[1]]) and steps[1] > 0
    if torch.__version__ >= (2, 12):
        assert before > after


def test_scaling_is_chosen_on_as_many_queries_as_asked_for(run: Callable[..., Run]) -> None:
    finished = run("ranker.scaling.num_queries=5", "ranker.mixing=null", "trainer.max_epochs=1")
    assert finished.metrics["val"]["queries"] == 5


def test_ablations_are_options(run: Callable[..., Run], encoders: Run) -> None:
    plain = ["ranker.mixing=null", "trainer.max_epochs=1"]
    blind = run("ranker.aggregator=none", *plain)
    assert "scaling" not in blind.metrics and set(blind.metrics["test"]["scorers"]) == {"bm25", "encoder", "lranker"}
    assert "scaling" not in encoders.metrics
    frozen = run("ranker.lora=null", "ranker.scaling=null", *plain)
    weights = torch.load(frozen.path / "best.ckpt", weights_only=True)["state_dict"]
    assert not any("lora" in name for name in weights) and any("projector" in name for name in weights)


def test_the_frozen_encoders_metrics_are_those_of_its_own_cosines(mixed: Run, pool: CandidatePool) -> None:
    ranks = []
    table = torch.cat(list(pool.blocks())).double()
    for query in (pool.queries.split == 2).nonzero().flatten().tolist():
        scores = table @ pool.queries.features(torch.tensor([query]))[0].double()
        start, stop = pool.queries.relevant_offsets[query : query + 2].tolist()
        ranks.append(min(1 + int((scores > scores[row]).sum()) for row in pool.queries.relevant[start:stop].tolist()))
    expected = sum(1 / rank for rank in ranks) / len(ranks)
    assert mixed.metrics["test"]["scorers"]["encoder"]["mrr"]["mean"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_two_processes_over_a_pool_give_the_metrics_of_one(
    pool_config: Callable[..., Path], tmp_path: Path, tiny_llama: Path
) -> None:
    # No dropout and no statistics over a batch: those are of each process.
    ranker = {"backbone": {"model": str(tiny_llama)}, "lora": {"rank": 4, "dropout": 0.0}}
    ranker |= {"projector": {"name": "mlp", "norm": "layer"}, "optimizer": {"name": "sgd", "lr": 1e-2}}
    config = pool_config(ranker=ranker)
    one = train_here(config, tmp_path / "one")
    two = train_in_processes(tmp_path / "two", "--config", config, "trainer.strategy=ddp")
    for split in ("val", "test"):
        assert one[split]["queries"] == two[split]["queries"] == 12
        for scorer, metrics in one[split]["scorers"].items():
            for metric, interval in metrics.items():
                assert two[split]["scorers"][scorer][metric]["mean"] == pytest.approx(interval["mean"], abs=1e-6)
    assert one["scaling"]["values"] == two["scaling"]["values"]


@pytest.mark.slow
def test_a_run_killed_in_mid_epoch_ends_with_the_same_weights(pool_config: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    stop = {"name": "stop_at", "hook": "on_train_batch_end", "step": 3, "signal_number": 9}
    stop["marker"] = str(tmp_path / "marker")
    whole = pool_config("whole.yaml", save_every=0)
    killed = pool_config("killed.yaml", save_every=0, imports=["killer"], callbacks=[stop])
    statuses, output = run_all(
        tmp_path,
        [
            [str(tmp_path / "a"), "--config", str(whole)],
            [str(tmp_path / "b"), "--config", str(killed)],
            [str(tmp_path / "b"), "--resume", str(tmp_path / "b")],
        ],
    )
    assert statuses == [0, -9, 0], output
    weights = [torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"] for name in "ab"]
    assert all(torch.equal(weights[1][name], weight) for name, weight in weights[0].items())
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "ab")
    assert first["test"] == second["test"] and first["scaling"] == second["scaling"]


@pytest.mark.parametrize("candidates", ["unmixed", "encoded"])
def test_a_searcher_finds_what_the_run_file_has(
    request: pytest.FixtureRequest, pool: CandidatePool, candidates: str
) -> None:
    finished = request.getfixturevalue(candidates)
    searcher = Searcher.from_pretrained(finished.path, pool.path)
    lines = [line.split() for line in (finished.path / "run.trec").read_text().splitlines()]
    for query in (pool.queries.split == 2).nonzero().flatten().tolist()[:3]:
        expected = [line[2] for line in lines if line[0] == pool.queries.id(query)][:5]
        found = searcher.rank([pool.queries.text(query)], top_k=5)[0]
        assert [candidate.id for candidate in found] == expected
    with pytest.raises(ValueError, match="query 1 of 2 is empty"):
        searcher.rank(["a", " "])
    with pytest.raises(ValueError, match="queries is one text, 'hello', and has to be a list of texts"):
        searcher.rank("hello")


def test_a_searcher_refuses_a_pool_of_another_encoder(unmixed: Run, pool: CandidatePool) -> None:
    searcher = Searcher.from_pretrained(unmixed.path, pool.path)
    searcher.ranker.encoder = {"pooling": "last"}
    with pytest.raises(ConfigError, match=r"another encoder .*: pooling is None, not 'last'"):
        Searcher(searcher.ranker, pool)


def test_a_searcher_mixes_in_the_encoder_or_says_that_it_is_unknown(
    encoders: Run, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, vector = write_pool(tmp_path / "pool"), torch.linspace(-1, 1, 16)
    with pytest.raises(ConfigError, match="a share of 1 of an encoder that the pool does not name"):
        Searcher.from_pretrained(encoders.path, pool.path)
    ranker = load_ranker(encoders.path)
    assert isinstance(ranker, LRanker)
    ranker.encoder = pool.encoder = {"model": str(tiny_bert)}
    monkeypatch.setattr(Encoder, "encode", lambda self, texts, prompt="": vector.expand(len(texts), -1))
    found = Searcher(ranker, pool).rank(["sort list"], top_k=5)[0]
    scores = torch.cat(list(pool.blocks())) @ vector
    assert [each.id for each in found] == [pool.id(int(row)) for row in scores.argsort(descending=True)[:5]]


def test_what_is_known_of_one_pool_is_not_used_for_another(unmixed: Run, pool: CandidatePool, tmp_path: Path) -> None:
    ranker = load_ranker(unmixed.path)
    trainer = build_trainer({"accelerator": "cpu", "enable_progress_bar": False})
    other = write_pool(tmp_path / "other", normalize=False)
    ranker.references, found = {"encoder": RANKERS.build("encoder"), "bm25": RANKERS.build("bm25")}, []
    for path in (pool.path, other.path, pool.path):
        data = PartitionedCandidates(str(path), num_partitions=4, num_splits=2)
        trainer.validate(ranker, datamodule=data, verbose=False)
        found.append({name: float(value.mean()) for name, value in ranker.evaluation.per_query(ranker.metrics).items()})
        found[-1] |= {"encoder": float(ranker.evaluation.baselines(ranker.metrics)["encoder"]["mrr"].mean())}
    assert found[0] == found[2] != found[1]


OUTSIDE = '''
"""An aggregator and a projector of one's own."""
import torch
from torch import nn
from rankers.lranker.aggregators import Aggregator
from ranking.pools.pool_batch import Contexts
from registry import AGGREGATORS, PROJECTORS

@AGGREGATORS.register("first_ones")
class FirstOnes(Aggregator):
    """The first candidates.

    Args:
        num_centroids: How many.
    """

    def __init__(self, num_centroids: int = 3) -> None:
        super().__init__(num_centroids)

    def summarise(self, vectors, mask, seed):
        order = (~mask).long().argsort(dim=1, stable=True)[:, : self.num_centroids]
        there = mask.gather(1, order)
        found = vectors.gather(1, order.unsqueeze(2).expand(-1, -1, vectors.shape[2])).float()
        found = found.masked_fill(~there.unsqueeze(2), 0)
        missing = self.num_centroids - order.shape[1]
        return Contexts(nn.functional.pad(found, (0, 0, 0, missing)), nn.functional.pad(there, (0, missing)))

@PROJECTORS.register("tanh")
class Tanh(nn.Module):
    """Linear, then tanh."""

    def __init__(self, feature_dim: int, num_centroids: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_dim * num_centroids, dim)

    def forward(self, centroids):
        return self.linear(centroids.flatten(1)).tanh()
'''


@pytest.mark.usefixtures("outside")
def test_an_aggregator_and_a_projector_from_outside_are_named_in_yaml(
    run: Callable[..., Run], tmp_path: Path, pool: CandidatePool
) -> None:
    (tmp_path / "mine.py").write_text(OUTSIDE)
    ranker = {"aggregator": {"name": "first_ones"}, "projector": {"name": "tanh"}, "mixing": None}
    finished = run("trainer.max_epochs=1", imports=["mine"], ranker=ranker)
    assert finished.metrics["test"]["queries"] == 12
    assert len(Searcher.from_pretrained(finished.path, pool.path).rank(["sort list"], top_k=4)[0]) == 4
