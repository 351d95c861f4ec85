"""The routes that rerank answer in the forms of Cohere, vLLM, Jina and TEI, with the scores of Reranker.rank."""

import asyncio
import math
import random
from typing import Any

import httpx
import pytest
from halls import DOCUMENTS, Scored, ask, hall_of, post

from serving.reranker import Reranker

COHERE = ["/rerank", "/v1/rerank", "/v2/rerank"]


@pytest.mark.parametrize("path", COHERE)
def test_raw_scores_are_those_of_the_reranker_to_the_bit(reranker: Reranker, path: str) -> None:
    ranked = reranker.rank("sort the file", DOCUMENTS)
    body = {"query": "sort the file", "documents": DOCUMENTS, "raw_scores": True}
    found = post(hall_of(reranker), path, body).json()
    assert [(each["index"], each["relevance_score"]) for each in found["results"]] == [
        (each.index, each.score) for each in ranked
    ]
    assert found["model"] == "tiny" and found["id"]


@pytest.mark.parametrize("path", COHERE)
def test_scores_are_sigmoids_and_equal_ones_keep_the_order_that_was_sent(path: str) -> None:
    given = [-1.0, 2.0, 2.0, 1000.0, -1000.0, 2.0]
    found = post(hall_of(Scored(lambda asked: given)), path, {"query": "a", "documents": list("abcdef")}).json()
    assert [each["index"] for each in found["results"]] == [3, 1, 2, 5, 0, 4]
    expected = [1.0, *[1 / (1 + math.exp(-2))] * 3, 1 / (1 + math.e), 0.0]
    assert [each["relevance_score"] for each in found["results"]] == pytest.approx(expected)


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (3, 3), (99, 5), (0, 5), (None, 5)])
def test_top_n_is_clamped_and_zero_means_all(reranker: Reranker, top_n: int | None, count: int) -> None:
    body = {"query": "open", "documents": DOCUMENTS, "top_n": top_n, "raw_scores": True}
    found = post(hall_of(reranker), "/v1/rerank", body).json()["results"]
    expected = [(each.index, each.score) for each in reranker.rank("open", DOCUMENTS)][:count]
    assert [(each["index"], each["relevance_score"]) for each in found] == expected


def test_documents_are_texts_or_objects_and_come_back_if_they_are_asked_for(reranker: Reranker) -> None:
    documents: list[Any] = [{"text": DOCUMENTS[0], "title": "x"}, DOCUMENTS[1]]
    hall_texts = {}
    for path in COHERE:
        for wants in (None, True, False):
            body = {"query": "open", "documents": documents, "return_documents": wants}
            results = post(hall_of(reranker), path, body).json()["results"]
            shown = ["document" in each for each in results]
            assert len(set(shown)) == 1
            hall_texts[path, wants] = shown[0]
            assert not shown[0] or all(each["document"] == {"text": DOCUMENTS[each["index"]]} for each in results)
    assert hall_texts == {
        **{(path, wants): wants for path in COHERE for wants in (True, False)},
        **{("/rerank", None): True, ("/v1/rerank", None): False, ("/v2/rerank", None): False},
    }


@pytest.mark.parametrize(
    "usual", [{"rank_fields": ["text"]}, {"max_tokens_per_query": 0}, {"truncate_prompt_tokens": -1}]
)
def test_options_that_ask_for_what_is_done_anyway_are_accepted(reranker: Reranker, usual: dict[str, Any]) -> None:
    body = {"query": "open", "documents": [{"text": text} for text in DOCUMENTS], "raw_scores": True}
    found = [post(hall_of(reranker), "/v1/rerank", {**body, **more}).json()["results"] for more in (usual, {})]
    assert found[0] == found[1] and len(found[0]) == 5


def test_the_form_of_tei_is_a_bare_list(reranker: Reranker) -> None:
    ranked = reranker.rank("sort", DOCUMENTS)
    body = {"query": "sort", "texts": DOCUMENTS, "raw_scores": True, "return_text": True}
    answer = post(hall_of(reranker), "/tei/rerank", body)
    assert answer.json() == [{"index": each.index, "score": each.score, "text": each.text} for each in ranked]
    plain = post(hall_of(reranker), "/tei/rerank", {"query": "sort", "texts": DOCUMENTS}).json()
    assert [each["score"] for each in plain] == pytest.approx([1 / (1 + math.exp(-each.score)) for each in ranked])
    assert set(plain[0]) == {"index", "score"}


def test_usage_counts_the_tokens_that_are_read_and_what_is_cut_is_said(reranker: Reranker) -> None:
    long = " ".join(["sort"] * 50)
    body = {"query": "sort a list", "documents": ["open the file", long]}
    found = post(hall_of(reranker), "/v1/rerank", body).json()
    # [CLS] the sort a list [SEP], [CLS] open the file [SEP], and the 32 tokens that the encoder reads of 52.
    assert found["usage"] == {"prompt_tokens": 6 + 5 + 32, "total_tokens": 43}
    assert found["meta"]["tokens"] == {"input_tokens": 43}
    assert found["meta"]["warnings"] == ["1 texts were longer than the ranker reads, and were cut"]
    assert found["results"][0]["relevance_score"] > 0
    short = post(hall_of(reranker), "/v1/rerank", {**body, "documents": ["open the file"]}).json()
    assert "warnings" not in short["meta"]


def test_max_tokens_per_doc_cuts_documents(reranker: Reranker) -> None:
    body = {
        "query": "sort",
        "documents": ["open the file of a key", "sort"],
        "max_tokens_per_doc": 3,
        "raw_scores": True,
    }
    found = post(hall_of(reranker), "/v2/rerank", body).json()
    expected = {each.index: each.score for each in reranker.rank("sort", ["open the file", "sort"])}
    assert {each["index"]: each["relevance_score"] for each in found["results"]} == expected
    assert found["meta"]["warnings"] == ["1 documents were cut to 3 tokens"]


def test_tei_refuses_what_is_too_long_unless_it_may_cut(reranker: Reranker) -> None:
    body = {"query": "sort", "texts": [" ".join(["sort"] * 50)]}
    refused = post(hall_of(reranker), "/tei/rerank", body)
    assert refused.status_code == 413 and refused.json()["error_type"] == "Validation"
    assert post(hall_of(reranker), "/tei/rerank", {**body, "truncate": True}).status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "form"),
    [("/v1/rerank", 500, "message"), ("/v2/rerank", 500, "message"), ("/tei/rerank", 424, "error_type")],
)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_a_failure(path: str, status: int, form: str, wrong: float) -> None:
    body = {"query": "a", "documents": ["b", "c"], "texts": ["b", "c"]}
    answer = post(hall_of(Scored(lambda asked: [1.0, wrong])), path, body)
    assert answer.status_code == status and form in answer.json() and "not a number" in answer.text


def test_requests_that_run_together_get_the_scores_that_they_get_alone_to_the_bit(reranker: Reranker) -> None:
    words = " ".join(DOCUMENTS).split()
    draw = random.Random(0)
    bodies = [
        {
            "query": " ".join(draw.choices(words, k=draw.randint(1, 40))),
            "documents": [" ".join(draw.choices(words, k=draw.randint(1, 40))) for _ in range(draw.randint(1, 9))],
            "raw_scores": True,
        }
        for _ in range(40)
    ]
    hall = hall_of(reranker)

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(*(client.post("/v1/rerank", json=body) for body in bodies))

    answers = ask(hall, talk)
    assert hall.metrics.registry.get_sample_value("rankers_batch_requests_count", {"ranker": "tiny"}) < 10
    alone = Reranker(reranker.ranker, reranker.encoder)
    for body, answer in zip(bodies, answers, strict=True):
        found = [(each["index"], each["relevance_score"]) for each in answer.json()["results"]]
        assert found == [(each.index, each.score) for each in alone.rank(body["query"], body["documents"])]


def test_a_text_that_the_ranker_cannot_read_is_refused_with_its_words(reranker: Reranker) -> None:
    answer = post(hall_of(reranker), "/v1/rerank", {"query": "a", "documents": ["b", " "]})
    assert answer.status_code == 400 and answer.json()["message"] == "document 1 of 2 is empty"
