"""/v1/search gives what a Searcher finds, and /v1/route what a router scores."""

import asyncio
from pathlib import Path

import httpx
import pytest
import torch
from halls import ask, hall_of, post

from language_models.backbone import Backbone
from language_models.encoder import Encoder
from rankers.routers.router_bert import RouterBERT
from rankers.routers.router_knn import RouterKNN
from ranking.stores.candidate_pool import CandidatePool
from serving.model_router import ModelRouter, RoutedModel
from serving.reranker import Reranker
from serving.searcher import Searcher

QUERIES = ["open the file", "sort a list", "read the value of a key", "close"]


def test_search_finds_what_the_searcher_finds(searcher: Searcher, pool: CandidatePool) -> None:
    expected = searcher.rank([QUERIES[0]], top_k=3)[0]
    hall = hall_of()
    hall.add_searcher("tiny", "own", searcher)
    found = post(hall, "/v1/search", {"query": QUERIES[0], "top_k": 3}).json()
    assert found["model"] == "tiny" and found["pool"] == "own"
    assert [(each["id"], each["document"]["text"]) for each in found["results"]] == [
        (each.id, each.text) for each in expected
    ]
    assert [each["score"] for each in found["results"]] == pytest.approx([each.score for each in expected], abs=1e-6)


def test_searches_that_run_together_find_what_they_find_alone(searcher: Searcher) -> None:
    hall = hall_of()
    hall.add_searcher("tiny", "own", searcher)
    sizes = [1, 5, 3, 300]
    expected = [
        [each.id for each in searcher.rank([query], top_k=size)[0]] for query, size in zip(QUERIES, sizes, strict=True)
    ]

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        bodies = [
            {"query": query, "top_k": size, "return_documents": False}
            for query, size in zip(QUERIES, sizes, strict=True)
        ]
        return await asyncio.gather(*(client.post("/v1/search", json=body) for body in bodies))

    found = [answer.json()["results"] for answer in ask(hall, talk)]
    assert [[each["id"] for each in results] for results in found] == expected
    assert len(found[3]) == 200 and "document" not in found[0][0]


def test_a_query_that_is_cut_is_said(searcher: Searcher) -> None:
    hall = hall_of()
    hall.add_searcher("tiny", "own", searcher)

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        queries = ["sort " * 100, QUERIES[0]]
        return await asyncio.gather(*(client.post("/v1/search", json={"query": query}) for query in queries))

    long, short = (answer.json() for answer in ask(hall, talk))
    assert long["meta"]["warnings"] == ["the query was longer than the ranker reads, and was cut"]
    assert len(long["results"]) == 10 and "meta" not in short


@pytest.mark.parametrize("named", [{}, {"model": "other"}])
def test_a_server_without_a_ranker_of_this_kind_says_so(searcher: Searcher, named: dict[str, str]) -> None:
    hall = hall_of()
    hall.add_searcher("tiny", "own", searcher)
    answer = post(hall, "/v1/route", {"query": "open", **named})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "this server has no ranker that can route"


def test_a_pool_is_named_and_an_unknown_one_is_told(searcher: Searcher) -> None:
    for pool, status in (("own", 200), ("other", 404)):
        hall = hall_of()
        hall.add_searcher("tiny", "own", searcher)
        answer = post(hall, "/v1/search", {"query": "open", "pool": pool})
        assert answer.status_code == status
    assert answer.json()["error"]["message"] == "tiny has no pool 'other'; there are: own"


MODELS = [RoutedModel("small", "open the file"), RoutedModel("large", "sort a list"), RoutedModel("new", "write")]


@pytest.fixture
def router(tiny_bert: Path) -> ModelRouter:
    """Two training queries, on which two models earned 1 or 0 at a cost of 0.25 or 4."""
    encoder = Encoder(model=str(tiny_bert), max_length=32)
    ranker = RouterKNN(encoder.feature_dim, num_neighbors=1)
    ranker.groups = torch.arange(2)
    ranker.queries = encoder.encode(["read the value", "return a key"])
    ranker.models = encoder.encode([model.text for model in MODELS[:2]])
    ranker.labels = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    ranker.performance, ranker.cost = ranker.labels, torch.tensor([[0.25, 4.0], [0.25, torch.nan]])
    return ModelRouter(Reranker(ranker, encoder), MODELS)


def test_the_router_says_which_model_to_ask_and_why(router: ModelRouter) -> None:
    hall = hall_of()
    hall.add_router("knn", router)
    found = post(hall, "/v1/route", {"query": "read the value"}).json()
    assert (found["router"], found["model"]) == ("knn", "small")
    ranking = {each["id"]: each for each in found["ranking"]}
    assert ranking["small"]["score"] == 1.0 and ranking["large"]["score"] == 0.0
    assert ranking["small"]["mean_label"] == 0.75 and ranking["small"]["mean_cost"] == 0.25
    assert ranking["large"]["mean_label"] == 0.5 and ranking["large"]["mean_cost"] == 4.0
    assert "earned 1 on the 1 most similar training queries (cosines 1.00 to 1.00)" in found["reasons"]
    assert "earned 0.75 on all 2 training queries that are remembered" in found["reasons"]
    assert any("was not tried in training" in reason for reason in ranking["new"]["reasons"])
    assert not any("was not tried" in reason for reason in ranking["small"]["reasons"])


def test_a_request_may_bring_its_models_and_a_chat(router: ModelRouter) -> None:
    body = {
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "return a key"}],
        "models": [{"id": "a", "text": MODELS[0].text}, {"id": "b", "text": MODELS[1].text}],
    }
    hall = hall_of()
    hall.add_router("knn", router)
    found = post(hall, "/v1/route", body).json()
    assert found["model"] == "b" and [each["id"] for each in found["ranking"]] == ["b", "a"]
    assert found["reasons"][0] == "scores 0.5 more than a"


def test_a_router_that_knows_its_models_offers_them(tiny_bert: Path) -> None:
    ranker = RouterBERT(Backbone(model=str(tiny_bert), dtype="float32"), max_length=32, models=["small", "large"])
    router = ModelRouter(Reranker(ranker))
    hall = hall_of()
    hall.add_router("bert", router)
    found = post(hall, "/v1/route", {"query": "sort"}).json()
    expected = Reranker(ranker).rank("sort", ["small", "large"])
    assert [(each["id"], each["score"]) for each in found["ranking"]] == [(each.text, each.score) for each in expected]
    assert found["ranking"][0]["mean_cost"] is None
