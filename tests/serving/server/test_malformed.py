"""Malformed requests get the right code in the form of their route, and nothing of the server's inside."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from halls import ask, hall_of

from features.generators.transformers import TransformersGenerator
from rankers.language_ranker.point_ranker import PointRanker
from serving.chat.best_of import BestOf
from serving.model_router import ModelRouter, RoutedModel
from serving.reranker import Reranker
from serving.searcher import Searcher
from serving.server.hall import Hall

KEY = "a key of sixteen letters or more"
GOOD: dict[str, Any] = {"query": "open", "documents": ["a", "b"]}
TEI: dict[str, Any] = {"query": "open", "texts": ["a", "b"]}
SEARCH: dict[str, Any] = {"query": "open"}
DEEP = "[" * 100_000 + "]" * 100_000
V1, V2, TEXTS, FIND, ROUTE = "/v1/rerank", "/v2/rerank", "/tei/rerank", "/v1/search", "/v1/route"
SAY = "/v1/chat/completions"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "open"}], "max_tokens": 2}

BODIES: list[tuple[str, Any, int]] = [
    # What is sent as bytes or text is no JSON, or JSON that Python cannot write.
    (V1, b"", 422),
    (V1, b"{", 400),
    (V1, b'{"query": "a", "documents": ["b"]', 400),
    (V1, b"\xff\xfe\x00", 400),
    (V1, b'{"query": "\xff", "documents": ["b"]}', 400),
    (V1, b"'single'", 400),
    (V1, DEEP.encode(), 400),
    (V1, b'{"query": "a", "documents": ["b"], "top_n": ' + b"9" * 5000 + b"}", 400),
    (V1, b'{"query": "a", "documents": ["b"], "top_n": NaN}', 422),
    (V1, b'{"query": "a", "documents": ["b"], "top_n": 1e999}', 422),
    (V1, b'{"query": "\\ud800", "documents": ["b"]}', 422),
    (V1, b'{"query": "a", "documents": ["\\udfff"]}', 422),
    (TEXTS, b"{", 400),
    (FIND, b"{", 400),
    # JSON of another shape.
    (V1, [], 422),
    (V1, "text", 422),
    (V1, 7, 422),
    (V1, None, 422),
    (V1, True, 422),
    (V1, {}, 422),
    (V1, {"query": "a"}, 422),
    (V1, {"documents": ["a"]}, 422),
    (V1, {**GOOD, "query": None}, 422),
    (V1, {**GOOD, "query": 5}, 422),
    (V1, {**GOOD, "query": ["a"]}, 422),
    (V1, {**GOOD, "query": {"text": "a"}}, 422),
    (V1, {**GOOD, "documents": "a"}, 422),
    (V1, {**GOOD, "documents": None}, 422),
    (V1, {**GOOD, "documents": {"a": "b"}}, 422),
    (V1, {**GOOD, "documents": ["a", 1]}, 422),
    (V1, {**GOOD, "documents": ["a", None]}, 422),
    (V1, {**GOOD, "documents": [["a"]]}, 422),
    (V1, {**GOOD, "documents": [{"title": "a"}]}, 422),
    (V1, {**GOOD, "documents": [{"text": 1}]}, 422),
    (V1, {**GOOD, "documents": [1] * 500}, 422),
    (V1, {**GOOD, "top_n": -1}, 422),
    (V1, {**GOOD, "top_n": "2"}, 422),
    (V1, {**GOOD, "top_n": 1.5}, 422),
    (V1, {**GOOD, "top_n": True}, 422),
    (V1, {**GOOD, "model": 5}, 422),
    (V1, {**GOOD, "raw_scores": "maybe"}, 422),
    (V1, {**GOOD, "raw_scores": "yes"}, 422),
    (V1, {**GOOD, "raw_scores": 1}, 422),
    (V1, {**GOOD, "use_activation": 0}, 422),
    (V1, {**GOOD, "return_documents": "true"}, 422),
    (V1, {**GOOD, "max_tokens_per_query": "9"}, 422),
    (V1, {**GOOD, "max_tokens_per_query": 9}, 400),
    (V1, {**GOOD, "truncate_prompt_tokens": 9}, 400),
    (V1, {**GOOD, "truncate_prompt_tokens": True}, 422),
    (V2, {**GOOD, "max_tokens_per_doc": 0}, 422),
    (V2, {**GOOD, "max_tokens_per_doc": "many"}, 422),
    (TEXTS, {"query": "a"}, 422),
    (TEXTS, {**TEI, "texts": "a"}, 422),
    (TEXTS, {**TEI, "truncate": "yes"}, 422),
    (TEXTS, {**TEI, "return_text": 1}, 422),
    (TEXTS, {**TEI, "raw_scores": "on"}, 422),
    (TEXTS, {**TEI, "texts": [1]}, 422),
    # The right shape, with content that cannot be ranked.
    (V1, {**GOOD, "documents": []}, 400),
    (V1, {**GOOD, "query": ""}, 400),
    (V1, {**GOOD, "documents": ["a", ""]}, 400),
    (V1, {**GOOD, "documents": ["a", " \n\t "]}, 400),
    (V1, {**GOOD, "rank_fields": ["title"]}, 400),
    (V1, {**GOOD, "rank_fields": ["text", "title"]}, 400),
    (V1, {**GOOD, "model": "../../etc/passwd"}, 404),
    (V1, {**GOOD, "model": ""}, 404),
    (V1, {**GOOD, "model": "router"}, 404),
    (V1, {**GOOD, "documents": ["a"] * 21}, 413),
    (V1, {**GOOD, "query": "a" * 300_000}, 413),
    (TEXTS, {**TEI, "texts": []}, 400),
    (TEXTS, {**TEI, "texts": ["a"] * 21}, 422),
    (TEXTS, {**TEI, "texts": ["open " * 100]}, 413),
    (TEXTS, {**TEI, "truncation_direction": "Left"}, 422),
    (FIND, {}, 400),
    (FIND, {**SEARCH, "query": ""}, 400),
    (FIND, {**SEARCH, "query": " \n\t "}, 400),
    (FIND, {**SEARCH, "query": ["open"]}, 400),
    (FIND, {**SEARCH, "query": "\ud800"}, 400),
    (FIND, {**SEARCH, "model": "tiny"}, 404),
    (FIND, {**SEARCH, "pool": "../own"}, 404),
    (FIND, {**SEARCH, "top_k": 0}, 400),
    (FIND, {**SEARCH, "top_k": "3"}, 400),
    (FIND, {**SEARCH, "top_k": True}, 400),
    (FIND, {**SEARCH, "top_k": 21}, 413),
    (FIND, {**SEARCH, "top_k": 10**30}, 413),
    (FIND, {**SEARCH, "user": "ana"}, 400),
    (FIND, {**SEARCH, "user": ""}, 400),
    (FIND, {**SEARCH, "return_documents": "yes"}, 400),
    (FIND, {**SEARCH, "return_documents": 1}, 400),
    (ROUTE, {}, 400),
    (ROUTE, {"query": "a", "messages": []}, 400),
    (ROUTE, {"messages": [{"role": "system", "content": "a"}]}, 400),
    (ROUTE, {"messages": [{"role": "user"}]}, 400),
    (ROUTE, {"query": "a", "models": []}, 400),
    (ROUTE, {"query": "a", "models": [{"text": "no id"}]}, 400),
    (ROUTE, {"query": "a", "models": ["name"]}, 400),
    # Chats.
    (SAY, b"{", 400),
    (SAY, [], 400),
    (SAY, {}, 400),
    (SAY, {"messages": []}, 400),
    (SAY, {"messages": "open"}, 400),
    (SAY, {"messages": ["open"]}, 400),
    (SAY, {"messages": [{"role": "user"}]}, 400),
    (SAY, {"messages": [{"role": "user", "content": None}]}, 400),
    (SAY, {"messages": [{"role": "user", "content": " "}]}, 400),
    (SAY, {"messages": [{"role": "user", "content": []}]}, 400),
    (SAY, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]}, 400),
    (SAY, {"messages": [{"role": "tool", "content": "a"}]}, 400),
    (SAY, {"messages": [{"role": "assistant", "content": "a"}]}, 400),
    (SAY, {"messages": [{"role": "user", "content": "\ud800"}]}, 400),
    (SAY, {"messages": [{"role": "user", "content": "open " * 500}]}, 400),
    (SAY, {**CHAT, "model": "tiny"}, 404),
    (SAY, {**CHAT, "model": ""}, 400),
    (SAY, {**CHAT, "model": 5}, 400),
    (SAY, {**CHAT, "ranker": "router"}, 404),
    (SAY, {**CHAT, "user": 5}, 400),
    (SAY, {**CHAT, "user": "a\0"}, 400),
    (SAY, {**CHAT, "user": "a" * 201}, 400),
    (SAY, {**CHAT, "n": 0}, 400),
    (SAY, {**CHAT, "n": "2"}, 400),
    (SAY, {**CHAT, "n": True}, 400),
    (SAY, {**CHAT, "n": 9}, 400),
    (SAY, {**CHAT, "candidates": 0}, 400),
    (SAY, {**CHAT, "candidates": 9}, 400),
    (SAY, {**CHAT, "candidates": 10**30}, 400),
    (SAY, {**CHAT, "candidates": 2, "best_of": 3}, 400),
    (SAY, {**CHAT, "temperature": -0.1}, 400),
    (SAY, {**CHAT, "temperature": 2.1}, 400),
    (SAY, {**CHAT, "temperature": "1"}, 400),
    (SAY, b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', 400),
    (SAY, {**CHAT, "top_p": 0}, 400),
    (SAY, {**CHAT, "top_p": 1.5}, 400),
    (SAY, {**CHAT, "max_tokens": 0}, 400),
    (SAY, {**CHAT, "max_tokens": 99_999}, 400),
    (SAY, {**CHAT, "max_completion_tokens": 3}, 400),
    (SAY, {**CHAT, "seed": "a"}, 400),
    (SAY, {**CHAT, "seed": 2**64}, 400),
    (SAY, {**CHAT, "stop": ""}, 400),
    (SAY, {**CHAT, "stop": [1]}, 400),
    (SAY, {**CHAT, "stop": ["a"] * 17}, 400),
    (SAY, {**CHAT, "stream": "yes"}, 400),
    (SAY, {**CHAT, "stream_options": {"include_usage": 1}}, 400),
    (SAY, {**CHAT, "tools": [{"type": "function"}]}, 400),
    (SAY, {**CHAT, "logprobs": True}, 400),
    (SAY, {**CHAT, "response_format": {"type": "json_object"}}, 400),
    (SAY, {**CHAT, "presence_penalty": 0.5}, 400),
]

REQUESTS: list[tuple[str, str, dict[str, str], int]] = [
    ("GET", V1, {}, 405),
    ("DELETE", V1, {}, 405),
    ("POST", "/health", {}, 405),
    ("POST", "/nothing", {}, 404),
    ("GET", "/../../etc/passwd", {}, 404),
    ("GET", "/v1/models/%2e%2e%2f", {}, 404),
    ("POST", V1, {"content-type": "text/plain"}, 415),
    ("POST", V1, {"content-type": "application/x-www-form-urlencoded"}, 415),
    ("POST", V1, {"content-type": "application/xml"}, 415),
    ("POST", V1, {"content-type": ""}, 415),
    ("POST", V1, {"authorization": ""}, 401),
    ("POST", V1, {"authorization": "Bearer"}, 401),
    ("POST", V1, {"authorization": "Bearer wrong"}, 401),
    ("POST", V1, {"authorization": f"Basic {KEY}"}, 401),
    ("POST", V1, {"authorization": f"Bearer {KEY}x"}, 401),
    ("GET", "/metrics", {"authorization": "Bearer wrong"}, 401),
    ("GET", "/v1/models", {"authorization": "Bearer wrong"}, 401),
    ("POST", V1, {"content-length": "99999999"}, 413),
    ("POST", V1, {"content-length": "-1"}, 413),
    ("POST", V1, {"content-length": "many"}, 413),
]


class Untrained(ModelRouter):
    def __init__(self) -> None:
        self.models = [RoutedModel("one", "one")]

    def route(self, queries: Any, models: Any) -> Any:
        from serving.model_router import _text_of

        if not all(models):
            raise ValueError("there is no model to choose from")
        return [[] for _ in map(_text_of, queries)]


@pytest.fixture
def hall(reranker: Reranker, chat_llama: Path, searcher: Searcher) -> Hall:
    hall = hall_of(reranker, api_key=KEY, max_documents=20, max_body=250_000, max_candidates=8)
    generator = TransformersGenerator(model=str(chat_llama), depths=[0.5], num_responses=3, dtype="float32")
    hall.add_chat("writer", BestOf(PointRanker(feature_dim=32), generator))
    hall.add_router("router", Untrained())
    hall.add_searcher("finder", "own", searcher)
    return hall


def is_in_form(path: str, status: int, answer: httpx.Response) -> bool:
    """Whether an error has the form that clients of the route read."""
    body = answer.json()
    if path.startswith("/tei/"):
        return set(body) == {"error", "error_type"} and isinstance(body["error"], str)
    error = body["error"]
    in_openais = (
        set(error) == {"message", "type", "param", "code"} and error["code"] == status and bool(error["message"])
    )
    return in_openais and (("message" in body) == path.endswith("/rerank"))


def leaks(text: str) -> list[str]:
    """Words that only the server's inside has: tracebacks, paths, modules, addresses, keys."""
    pattern = r"Traceback|File \\?\"|\.py\b|site-packages|0x[0-9a-f]{6,}|pydantic|torch|Tensor|sixteen"
    return re.findall("|".join([pattern, *map(re.escape, (tempfile.gettempdir(), str(Path.home())))]), text)


def test_there_are_more_than_sixty() -> None:
    assert len(BODIES) + len(REQUESTS) >= 60


def test_every_malformed_body_gets_the_right_code_in_the_form_of_its_route(
    hall: Hall, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        found = []
        for path, body, _ in BODIES:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            found.append(await client.post(path, content=content))
        for path, body in ((V1, GOOD), (SAY, CHAT), (FIND, SEARCH)):
            good = await client.post(path, json=body)
            assert good.status_code == 200, "the server still answers"
        return found

    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    answers = ask(hall, talk, headers=headers)
    for (path, body, status), answer in zip(BODIES, answers, strict=True):
        told = f"{path} {str(body)[:80]}: {answer.status_code} {answer.text[:200]}"
        assert answer.status_code == status, told
        assert is_in_form(path, status, answer), told
        assert not leaks(answer.text) and len(answer.text) < 1500, told
        assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])
    assert "Traceback" not in caplog.text


def test_every_malformed_request_is_refused_before_a_route_sees_it(hall: Hall) -> None:
    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        usual = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        return [
            await client.request(method, path, headers={**usual, **headers}, content=json.dumps(GOOD))
            for method, path, headers, _ in REQUESTS
        ]

    for (method, path, headers, status), answer in zip(REQUESTS, ask(hall, talk), strict=True):
        told = f"{method} {path} {headers}: {answer.status_code} {answer.text[:200]}"
        assert answer.status_code == status, told
        assert is_in_form(path, status, answer), told
        assert not leaks(answer.text), told


def test_a_search_that_is_refused_is_told_why(hall: Hall) -> None:
    told = [
        ({"query": " "}, "the query is empty"),
        ({"query": "open", "top_k": 21}, "top_k is 21; the most are 20"),
        ({"query": "open", "user": "ana"}, "finder searches alike for all users: search without user, then send"),
        ({"query": "open", "pool": "other"}, "finder has no pool 'other'; there are: own"),
        ({"query": "open", "model": "tiny"}, "no ranker 'tiny' that can search; there are: finder"),
    ]

    async def talk(client: httpx.AsyncClient) -> list[str]:
        return [(await client.post(FIND, json=body)).json()["error"]["message"] for body, _ in told]

    found = ask(hall, talk, headers={"authorization": f"Bearer {KEY}"})
    assert [message[: len(start)] for message, (_, start) in zip(found, told, strict=True)] == [
        start for _, start in told
    ]


def test_a_wrong_field_is_named_with_its_place(hall: Hall) -> None:
    async def talk(client: httpx.AsyncClient) -> str:
        body = {"query": "a", "documents": ["b", 1], "top_n": -1}
        return (await client.post(V1, json=body, headers={"authorization": f"Bearer {KEY}"})).json()["message"]

    assert ask(hall, talk).startswith("documents.1: Input should be a valid string; documents.1: ")


def test_a_failure_of_the_server_says_nothing_of_its_inside(hall: Hall, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("Tensor at 0xdeadbeef in /root/secret.py")

    hall.rerankers["tiny"].score = fail  # type: ignore[method-assign]
    headers = {"authorization": f"Bearer {KEY}"}
    answer = ask(hall, lambda client: client.post(V1, json=GOOD), headers=headers)
    assert answer.status_code == 500 and not leaks(answer.text)
    assert is_in_form(V1, 500, answer) and "0xdeadbeef" in caplog.text
