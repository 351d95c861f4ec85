"""Every request is counted and logged without its texts, and strangers are kept out."""

import asyncio
import json
import logging
import re
from typing import Any

import httpx
import pytest
from halls import Scored, ask, hall_of, post

from serving.reranker import Reranker
from serving.server.app import create_app
from serving.server.logs import JsonLines

KEY = "a key of sixteen letters or more"
BODY = {"query": "a secret question", "documents": ["a secret answer", "b"]}


def test_health_and_readiness_need_no_key(reranker: Reranker) -> None:
    hall = hall_of(reranker, api_key=KEY)
    assert ask(hall, lambda client: client.get("/health")).text == "ok"
    hall = hall_of(reranker, api_key=KEY)
    assert ask(hall, lambda client: client.get("/ready")).status_code == 200


def test_a_server_that_is_not_ready_says_so(reranker: Reranker) -> None:
    hall = hall_of(reranker)
    hall.is_ready = False
    assert ask(hall, lambda client: client.get("/ready")).json() == {"ready": False}
    hall = hall_of(reranker)
    hall.is_ready = False
    answer = post(hall, "/v1/rerank", BODY)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "2"
    tei = post(hall, "/tei/rerank", {"query": "a", "texts": ["b"]})
    assert (tei.status_code, tei.json()["error_type"]) == (503, "Unhealthy")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny", "/v1/users/ana"])
def test_a_server_that_loads_lists_nothing_yet(reranker: Reranker, path: str) -> None:
    hall = hall_of(reranker)
    hall.is_ready = False
    answer = ask(hall, lambda client: client.get(path))
    assert answer.status_code == 503 and answer.headers["retry-after"] == "2"
    assert answer.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.0.2.1", ""])
def test_without_a_key_only_this_machine_is_served(reranker: Reranker, host: str) -> None:
    """A page on another site whose name leads to 127.0.0.1 would send its own name as host."""
    answer = post(hall_of(reranker), "/v1/rerank", BODY, headers={"host": host})
    assert answer.status_code == 403
    for own in ("localhost:8000", "127.0.0.1", "127.0.0.2:8000", "[::1]:8000"):
        assert post(hall_of(reranker), "/v1/rerank", BODY, headers={"host": own}).status_code == 200
    with_key = {"host": host, "authorization": f"Bearer {KEY}"}
    assert post(hall_of(reranker, api_key=KEY), "/v1/rerank", BODY, headers=with_key).status_code == 200


def test_an_overloaded_server_says_when_to_come_again() -> None:
    import threading

    go = threading.Event()

    def slow(asked: Any) -> list[float]:
        assert go.wait(20)
        return [0.0] * len(asked.documents)

    hall = hall_of(Scored(slow), max_waiting=4)

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        async def send(path: str) -> httpx.Response:
            return await client.post(path, json={"query": "a", "documents": ["b"] * 3, "texts": ["b"] * 3})

        first = asyncio.create_task(send("/v1/rerank"))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(send("/v1/rerank"))
        await asyncio.sleep(0.1)
        refused = [await send("/v2/rerank"), await send("/tei/rerank")]
        go.set()
        return [*refused, await first, await second]

    *refused, first, second = ask(hall, talk)
    assert [each.status_code for each in (*refused, first, second)] == [429, 429, 200, 200]
    assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
    assert refused[1].json()["error_type"] == "Overloaded" and "message" in refused[0].json()


def test_requests_are_counted_by_route_and_status(reranker: Reranker) -> None:
    hall = hall_of(reranker)

    async def talk(client: httpx.AsyncClient) -> str:
        await client.post("/v1/rerank", json=BODY)
        await client.post("/v1/rerank", json={})
        await client.get("/any/name/that/nobody/knows")
        return (await client.get("/metrics")).text

    lines = ask(hall, talk).splitlines()
    assert 'rankers_requests_total{route="/v1/rerank",status="200"} 1.0' in lines
    assert 'rankers_requests_total{route="/v1/rerank",status="422"} 1.0' in lines
    assert 'rankers_requests_total{route="other",status="404"} 1.0' in lines
    assert 'rankers_batch_texts_sum{ranker="tiny"} 2.0' in lines
    assert 'rankers_waiting_texts{ranker="tiny"} 0.0' in lines
    assert not any("nobody" in line for line in lines)


@pytest.mark.parametrize("log_texts", [False, True])
def test_a_line_a_request_is_logged_without_texts(
    reranker: Reranker, caplog: pytest.LogCaptureFixture, log_texts: bool
) -> None:
    caplog.set_level(logging.INFO, "serving")
    post(hall_of(reranker, log_texts=log_texts), "/v1/rerank", BODY, headers={"x-request-id": "mine-1"})
    (line,) = (JsonLines().format(record) for record in caplog.records if record.name == "serving")
    fields = json.loads(line)
    assert fields["route"] == "/v1/rerank" and fields["status"] == 200 and fields["documents"] == 2
    assert fields["id"] == "mine-1" and fields["ranker"] == "tiny" and fields["milliseconds"] > 0
    assert ("secret" in line) == log_texts and "answer" not in line


def test_a_body_that_comes_in_parts_is_measured_as_it_comes(reranker: Reranker) -> None:
    sent = 0

    async def parts() -> Any:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 1000

    hall = hall_of(reranker, max_body=20_000)
    headers = {"content-type": "application/json"}
    answer = ask(hall, lambda client: client.post("/v1/rerank", content=parts(), headers=headers))
    assert answer.status_code == 413 and sent <= 22


def test_a_client_that_leaves_while_it_sends_is_counted_as_one_that_left() -> None:
    hall = hall_of()
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/rerank", "headers": headers}
    asyncio.run(create_app(hall)(scope, receive, send))
    assert 'rankers_requests_total{route="other",status="499"} 1.0' in hall.metrics.text().decode().splitlines()


def test_the_routes_describe_themselves_on_a_page_that_loads_nothing(reranker: Reranker) -> None:
    async def talk(client: httpx.AsyncClient) -> tuple[Any, str]:
        return (await client.get("/openapi.json")).json(), (await client.get("/docs")).text

    described, page = ask(hall_of(reranker), talk)
    routes = {"/rerank", "/v1/rerank", "/v2/rerank", "/tei/rerank", "/v1/search", "/v1/route", "/v1/models", "/health"}
    assert routes <= set(described["paths"])
    assert all(f"</b> {path}</code>" in page for path in described["paths"])
    fields = described["components"]["schemas"]["RerankRequest"]["properties"]
    assert all(f"<code>{field}</code>" in page for field in fields)
    assert "list of string or TextDocument" in page
    assert not re.search("<script|<link|<img|src=|https?:", page)


def test_rankers_are_chosen_by_name() -> None:
    hall = hall_of(Scored(lambda asked: [1.0, 2.0]))
    hall.add_reranker("other", Scored(lambda asked: [2.0, 1.0]))

    async def talk(client: httpx.AsyncClient) -> list[tuple[str, int]]:
        found = [
            (await client.post("/v1/rerank", json={**BODY, "model": model})).json() for model in (None, "tiny", "other")
        ]
        return [(each["model"], each["results"][0]["index"]) for each in found]

    assert ask(hall, talk) == [("tiny", 1), ("tiny", 1), ("other", 0)]
