"""Routers choose as scikit-learn, transformers and a loop over nodes do, and a run says what they earn and cost."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

import train
from rankers.checkpoint import load_ranker, save_pretrained
from rankers.routers.graph_router import GraphRouter
from rankers.routers.router_bert import RouterBERT
from rankers.routers.router_knn import RouterKNN
from ranking.batch import FeatureBatch, TextBatch
from registry import RANKERS
from serving.reranker import Reranker

DIM, QUERIES, MODELS = 8, 30, 4


class Data:
    """Training queries with what four models earned on each; one was not tried on every third."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.queries, self.models = torch.randn(QUERIES, DIM, generator=draw), torch.randn(MODELS, DIM, generator=draw)
        self.labels = torch.rand(QUERIES, MODELS, generator=draw)
        self.cost = torch.rand(QUERIES, MODELS, generator=draw)
        self.tried = torch.ones(QUERIES, MODELS, dtype=torch.bool)
        self.tried[::3, 2] = False
        self.order = torch.stack([torch.randperm(MODELS, generator=draw) for _ in range(QUERIES)])

    def most_candidates(self, split: str) -> int:
        return MODELS

    def candidate_id(self, slot: int) -> str:
        return f"model {self.order.flatten()[slot]}"

    def batch(self, rows: Tensor) -> FeatureBatch:
        order = self.order[rows]
        return FeatureBatch(
            labels=self.labels[rows].gather(1, order),
            mask=self.tried[rows].gather(1, order),
            group=rows,
            slot=rows.unsqueeze(1) * MODELS + torch.arange(MODELS),
            unique_queries=self.queries[rows],
            unique_candidates=self.models,
            query_index=torch.arange(len(rows)),
            candidate_index=order,
            performance=self.labels[rows].gather(1, order),
            cost=self.cost[rows].gather(1, order),
        )

    def evaluation_batches(self, split: str, num_candidates: int, draws: int) -> Iterator[FeatureBatch]:
        assert (split, num_candidates, draws) == ("train", MODELS, 1)
        yield from map(self.batch, torch.arange(QUERIES).split(7))


@pytest.fixture
def data() -> Data:
    return Data()


@pytest.mark.parametrize("num_neighbors", [1, 5, 99])
def test_the_nearest_queries_of_scikit_learn_vote(data: Data, num_neighbors: int) -> None:
    router = RouterKNN(DIM, num_neighbors)
    router.learn_from(data)
    new = torch.randn(6, DIM, generator=torch.Generator().manual_seed(5))
    exact = NearestNeighbors(n_neighbors=min(num_neighbors, QUERIES), metric="cosine").fit(data.queries.numpy())
    neighbours = exact.kneighbors(new.numpy(), return_distance=False)
    labels = np.where(data.tried.numpy(), data.labels.numpy(), np.nan)
    data.queries = torch.cat([new, data.queries[6:]])
    scores = router(data.batch(torch.arange(6)))
    for row in range(6):
        for place in range(MODELS):
            model = int(data.order[row, place])
            known = [labels[n, model] for n in neighbours[row] if not math.isnan(labels[n, model])]
            expected = np.mean(known) if known else np.nanmean(labels[:, model])
            assert scores[row, place].item() == pytest.approx(expected, abs=1e-5)


def messages(router: GraphRouter, data: Data, seen: Tensor, query: Tensor | None) -> tuple[Any, Any]:
    """The states of all nodes by loops over nodes and edges in float64; of a query without edges if it is given."""
    router = router.double()
    largest = float(data.cost[data.tried].max())
    states = {("q", q): router.query(data.queries[q].double()) for q in range(QUERIES)}
    states |= {("m", m): router.model(router.models[m].double()) for m in range(MODELS)}
    if query is not None:
        states["new", 0] = router.query(query.double())
    ids = [int((data.models == model.float()).all(dim=1).nonzero()) for model in router.models]
    for each in router.rounds:
        updated = {}
        for kind, number in states:
            edges = [(q, m) for q in range(QUERIES) for m in range(MODELS) if seen[q, m]]
            own = [edge for edge in edges if (kind, number) in (("q", edge[0]), ("m", edge[1]))]
            received = []
            for q, m in own:
                label, cost = float(data.labels[q, ids[m]]), float(data.cost[q, ids[m]]) / largest
                edge = each.edge(torch.tensor([label, cost, label], dtype=torch.float64))
                received.append(each.message(states[("m", m) if kind == "q" else ("q", q)]) + edge)
            mean = torch.stack(received).mean(dim=0) if received else torch.zeros(32, dtype=torch.float64)
            found = each.norm(each.own(states[kind, number]) + mean)
            updated[kind, number] = found if each is router.rounds[-1] else torch.relu(found)
        states = updated
    return states, ids


def test_graph_routers_pass_messages_as_a_loop_over_edges_does(data: Data) -> None:
    torch.manual_seed(0)
    router = GraphRouter(DIM)
    router.learn_from(data)
    new = torch.randn(1, DIM)
    batch = data.batch(torch.tensor([3]))
    batch.unique_queries = new
    with torch.no_grad():
        scores = router.eval()(batch)[0]
        states, ids = messages(router, data, router._tried, new[0])
        router.float()
    for place in range(MODELS):
        model = states["m", ids.index(int(data.order[3, place]))]
        assert scores[place].item() == pytest.approx((states["new", 0] * model).mean().item(), abs=1e-5)


@pytest.mark.parametrize("hide", ["edges", "queries"])
def test_graph_routers_predict_only_edges_that_they_hide(data: Data, hide: Any) -> None:
    torch.manual_seed(0)
    router = GraphRouter(DIM, hide=hide, hidden=0.5)
    router.learn_from(data)
    batch = data.batch(torch.arange(QUERIES))
    scores, labels, mask = router.training_scores(batch)
    assert bool((mask <= batch.mask).all()) and bool(batch.mask[0].any()) and torch.equal(labels, batch.labels)
    share = mask.sum() / batch.mask.sum()
    assert share == 1 if hide == "queries" else 0.3 < share < 0.9
    # What is hidden has no influence on the scores.
    changed = torch.where(mask, 1 - batch.labels, batch.labels)
    row, place = mask.nonzero(as_tuple=True)
    known = router.known_models(batch)
    router.labels[row, known[row, place]] = changed[row, place]
    router.performance[row, known[row, place]] = changed[row, place]
    torch.manual_seed(0)
    GraphRouter(DIM)
    torch.testing.assert_close(router.training_scores(batch)[2], mask)
    torch.manual_seed(0)
    GraphRouter(DIM)
    torch.testing.assert_close(router.training_scores(batch)[0], scores)


@pytest.mark.parametrize("name", ["router_knn", "graph_router"])
def test_models_that_no_kept_query_tried_count_as_the_most_similar_known_one(data: Data, name: str) -> None:
    data.tried[:, 3] = torch.arange(QUERIES) == 1
    router = RANKERS.build({"name": name, "max_queries": 7}, feature_dim=DIM)
    router.learn_from(data)
    assert 1 not in router.groups.tolist() and len(router.models) == MODELS - 1
    batch = data.batch(torch.arange(5))
    scores = router(batch).detach()
    assert bool(scores.isfinite().all())
    known = torch.nn.functional.cosine_similarity(data.models[3], data.models[:3]).argmax()
    for row, order in zip(scores, data.order[:5], strict=True):
        assert row[order == 3] == row[order == known]


@pytest.mark.parametrize("name", ["router_knn", "graph_router"])
def test_routers_take_what_they_know_with_them(data: Data, name: str, tmp_path: Path) -> None:
    router = RANKERS.build({"name": name}, feature_dim=DIM)
    batch = data.batch(torch.arange(5))
    with pytest.raises(ValueError, match=f"{name} knows no models"):
        router(batch)
    router.learn_from(data)
    loaded = load_ranker(save_pretrained(router, tmp_path / "router"))
    with torch.no_grad():
        torch.testing.assert_close(loaded(batch), router.eval()(batch))
    few = RANKERS.build({"name": name, "max_queries": 10}, feature_dim=DIM)
    few.learn_from(data)
    torch.testing.assert_close(few.queries, data.queries[::3])


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize("pooling", ["auto", "mean"])
def test_router_bert_has_an_output_for_each_model(
    model: str, pooling: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    queries, models = ["open the file", "sort a list of the value", "read"], ["a small one", "a large one"]
    batch = TextBatch(
        labels=torch.tensor([[1.0, 0], [0, 1], [1, 1]]),
        mask=torch.tensor([[True, True], [True, True], [True, False]]),
        group=torch.arange(3),
        slot=torch.tensor([[0, 1], [2, 3], [4, -1]]),
        queries=queries,
        candidates=[models, models[::-1], [models[1], ""]],
    )

    class Texts:
        def most_candidates(self, split: str) -> int:
            return 2

        def evaluation_batches(self, *given: Any) -> list[TextBatch]:
            return [batch]

    node = {"name": "router_bert", "backbone": {"model": str(folder), "dtype": "float32"}, "max_length": 8}
    router: RouterBERT = RANKERS.build({**node, "pooling": pooling})
    router.configure_model()
    router.learn_from(Texts())
    router.eval()
    assert router.models == models and router.head is not None and router.head.out_features == 2
    tokenizer, plain = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.no_grad():
        scores = router(batch)
        for row, query in enumerate(queries):
            tokens = tokenizer(query, truncation=True, max_length=8, return_tensors="pt")
            states = plain(tokens["input_ids"]).last_hidden_state[0]
            pooled = states.mean(dim=0) if pooling == "mean" else states[0 if model == "tiny_bert" else -1]
            expected = router.head.weight @ pooled + router.head.bias
            for place, text in enumerate(batch.candidates[row]):
                if text:
                    assert scores[row, place] == pytest.approx(expected[models.index(text)].item(), abs=1e-4)
    batch.candidates[0] = ["nobody knows it", models[1]]
    with torch.no_grad():
        assert float(router(batch)[0, 0]) < float(scores[0].min())
    nothing = torch.empty(0, 0)
    none = TextBatch(nothing, nothing.bool(), torch.empty(0).long(), nothing.long(), queries=[], candidates=[])
    assert router(none).shape == (0, 0)
    loaded = load_ranker(save_pretrained(router, tmp_path / "saved"))
    with torch.no_grad():
        torch.testing.assert_close(loaded(batch), router(batch))


def write_routing(folder: Path) -> None:
    """Queries about files or lists; each model knows one of both, and the third nothing at less cost."""
    rows = []
    for place in range(60):
        about = ["file", "list"][place % 2]
        scores = {"filer": float(about == "file"), "lister": float(about == "list"), "cheap": 0.25}
        query = f"{['open', 'read', 'write'][place % 3]} the {about} {chr(97 + place % 26)} {chr(97 + place // 26)}"
        split = ["train", "train", "val", "test"][place // 2 % 4]
        rows.append({"query_id": f"r{place}", "query": query, "scores": scores, "split": split})
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = [{"id": id, "text": f"the {id}", "cost": cost} for id, cost in (("filer", 4), ("lister", 2), ("cheap", 0))]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in models))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["router_knn", "graph_router", "router_bert"])
def test_a_run_reports_what_choices_earn_and_cost(
    name: str, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_routing(tmp_path)
    model = {"model": str(tiny_bert), "dtype": "float32", **({} if name == "router_bert" else {"max_length": 16})}
    embedding = f"name: embedding, encoder: {json.dumps(model)}"
    options = {
        "router_knn": "num_neighbors: 7",
        "graph_router": "optimizer: {name: adamw, lr: 0.01}",
        "router_bert": f"backbone: {json.dumps(model)}, max_length: 16, optimizer: {{name: adamw, lr: 0.003}}",
    }
    data = "text_groups" if name == "router_bert" else "grouped_features"
    source = "{name: routing, queries: q.jsonl, models: m.jsonl}"
    (tmp_path / "r.yaml").write_text(
        f"""
features:
  {{{"name: texts" if name == "router_bert" else embedding}, source: {source}}}
ranker: {{name: {name}, {options[name]}, metrics: [chosen, hit@1]}}
datamodule: {{name: {data}, num_candidates: null, batch_size: 8}}
trainer: {{max_epochs: 20}}
monitor: val/chosen
logger: csv
"""
    )
    assert train.main(["--config", "r.yaml", "--check"]) == 0
    assert train.main(["--config", "r.yaml"]) == 0
    (run,) = (tmp_path / "runs" / "r").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    found = {
        scorer: {what: mean["mean"] for what, mean in means.items()}
        for scorer, means in metrics["routing"]["scorers"].items()
    }
    assert found["oracle"] == {"label": 1, "performance": 1, "cost": pytest.approx(3, abs=0.3)}
    assert found["random"]["label"] == pytest.approx(1.25 / 3, abs=0.2)
    assert found["best_single"]["label"] == pytest.approx(0.5, abs=0.1)
    assert found[name]["label"] > 0.75
    assert found[name]["label"] == metrics["test"]["scorers"][name]["chosen"]["mean"]
    assert "routing: 14 test queries; all models are equal for 0 of them" in capsys.readouterr().out
    choices = {}
    for line in (run / "run.trec").read_text().splitlines():
        query, _, candidate, rank, _, _ = line.split()
        if rank == "1":
            choices[query] = candidate
    costs = {"filer": 4, "lister": 2, "cheap": 0}
    assert found[name]["cost"] == pytest.approx(sum(costs[each] for each in choices.values()) / len(choices))
    if name != "router_bert":
        ranked = Reranker.from_pretrained(run).rank("open the file z z", ["the lister", "the filer", "the cheap"])
        assert ranked[0].text == "the filer"
