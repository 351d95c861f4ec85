"""Feedback over HTTP: it is kept, a user's head learns from it, and only this user's requests are scored by it."""

import asyncio
import json
import math
import re
import tempfile
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from halls import DOCUMENTS, Scored, ask, hall_of, post, taught, train
from sqlalchemy.exc import OperationalError

from language_models.encoder import Encoder
from language_models.language_model import LanguageModel
from rankers.language_ranker.list_ranker import ListRanker
from rankers.language_ranker.point_ranker import PointRanker
from serving.feedback.learning import learn
from serving.reranker import Asked, Reranker
from serving.server.hall import Hall
from serving.server.learner import Learner, _Read

PICK: dict[str, Any] = {"user": "ana", "query": "sort", "candidates": DOCUMENTS[:4], "picked": 3}


@pytest.fixture
def hall(reranker: Reranker, tmp_path: Path) -> Hall:
    hall = taught(reranker, tmp_path / "feedback.sqlite", learn_after=5, max_documents=20)
    hall.add_reranker("unteachable", Scored(lambda asked: [0.0] * len(asked.documents)))
    return hall


async def rerank(client: httpx.AsyncClient, user: str | None = None) -> dict[str, Any]:
    body = {"query": "open", "documents": DOCUMENTS, "raw_scores": True, "user": user}
    return (await client.post("/v1/rerank", json=body)).json()


def order(found: dict[str, Any]) -> list[tuple[int, float]]:
    return [(each["index"], each["relevance_score"]) for each in found["results"]]


def test_a_head_learns_from_feedback_and_scores_for_its_user_alone(reranker: Reranker, hall: Hall) -> None:
    # What the ranker likes least for the query that will be held out.
    worst = reranker.rank("open a list", DOCUMENTS[:4])[-1].index

    async def talk(client: httpx.AsyncClient) -> None:
        before = await rerank(client)
        assert "personal" not in before["meta"]
        told = await rerank(client, "ana")
        assert told["meta"]["personal"] == {"version": 0} and order(told) == order(before)
        for number, query in enumerate(["open", "sort", "write", "return", "open a list"], start=1):
            await train(hall)
            answer = await client.post("/v1/feedback", json={**PICK, "query": query, "picked": worst})
            assert answer.status_code == 200 and answer.json() == {
                "id": answer.headers["x-request-id"],
                "model": "tiny",
                "kind": "pick",
                "feedback": number,
                "was_there": False,
                "learns_after": 5,
                "version": 0,
            }
        await train(hall)
        state = (await client.get("/v1/users/ana")).json()
        assert state["learns_after"] == 5
        (kept,) = state["rankers"]
        assert (kept["model"], kept["feedback"], kept["learnt"], kept["version"]) == ("tiny", 5, 5, 1)
        assert [each["version"] for each in kept["versions"]] == [1] and not kept["is_training"]
        assert kept["last_training"]["outcome"] == "a new head" and kept["last_training"]["held_out"] == 1

        mine = await rerank(client, "ana")
        assert mine["meta"]["personal"] == {"version": 1} and order(mine) != order(before)
        first = order(before)[0][0]
        apart = [dict(order(each))[worst] - dict(order(each))[first] for each in (mine, before)]
        assert apart[0] > apart[1]
        tei = {"query": "open", "texts": DOCUMENTS, "raw_scores": True, "user": "ana"}
        found = (await client.post("/tei/rerank", json=tei)).json()
        assert [(each["index"], each["score"]) for each in found] == order(mine)
        for other in (None, "ben"):
            assert order(await rerank(client, other)) == order(before)
        # Requests of several users that are read together.
        several = await asyncio.gather(*(rerank(client, user) for user in ("ana", None, "ben", "ana")))
        assert [order(each) for each in several] == [order(each) for each in (mine, before, before, mine)]

        back = await client.patch("/v1/users/ana", json={"version": 0})
        assert back.json()["rankers"][0]["version"] == 0 and order(await rerank(client, "ana")) == order(before)
        await client.patch("/v1/users/ana", json={"version": 1, "model": "tiny"})
        assert order(await rerank(client, "ana")) == order(mine)
        assert (await client.patch("/v1/users/ana", json={"version": 2})).status_code == 404
        metrics = (await client.get("/metrics")).text
        assert 'rankers_feedback_total{kind="pick",ranker="tiny"} 5.0' in metrics
        assert 'rankers_trainings_total{outcome="a new head",ranker="tiny"} 1.0' in metrics

        gone = (await client.delete("/v1/users/ana")).json()
        assert gone == {"user": "ana", "deleted": {"feedback": 5, "versions": 1}}
        assert order(await rerank(client, "ana")) == order(before)
        assert (await client.get("/v1/users/ana")).status_code == 404
        assert (await client.delete("/v1/users/ana")).json()["deleted"] == {"feedback": 0, "versions": 0}

    ask(hall, talk)


def test_pairs_scores_and_several_picks_are_kept_as_labels(hall: Hall) -> None:
    forms = [
        ({"chosen": "a", "rejected": "b"}, "pair", ["a", "b"], [1, 0]),
        ({"candidates": ["a", "b", "c"], "scores": [0.5, -1, 3]}, "scores", ["a", "b", "c"], [0.5, -1, 3]),
        ({"candidates": ["a", "b", "c"], "picked": [2, 0]}, "pick", ["a", "b", "c"], [1, 0, 1]),
    ]

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.post("/v1/feedback", json={"user": "ana", "query": "q", **form}) for form, *_ in forms]

    assert [answer.json()["kind"] for answer in ask(hall, talk)] == ["pair", "scores", "pick"]
    assert hall.database is not None
    for (_, content), (_, kind, candidates, labels) in zip(
        hall.database.feedback("tiny", "ana", 9), forms, strict=True
    ):
        assert content == {"kind": kind, "query": "q", "candidates": candidates, "labels": labels}


def test_a_repeated_request_counts_once_by_its_key(hall: Hall) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        headers = {"idempotency-key": "4f1c"}
        answers = await asyncio.gather(*(client.post("/v1/feedback", json=PICK, headers=headers) for _ in range(4)))
        assert [answer.json()["feedback"] for answer in answers] == [1] * 4
        assert sorted(answer.json()["was_there"] for answer in answers) == [False, True, True, True]
        other = await client.post("/v1/feedback", json={**PICK, "picked": 0}, headers=headers)
        assert other.status_code == 422 and "Idempotency-Key" in other.text

    ask(hall, talk)


@pytest.mark.parametrize("user", ["a/b", "ж и名", "...", "%2e", "a?b#c", "rollback"])
def test_a_user_may_have_any_name_that_a_path_can_hold(hall: Hall, user: str) -> None:
    from urllib.parse import quote

    async def talk(client: httpx.AsyncClient) -> None:
        path = f"/v1/users/{quote(user, safe='')}"
        assert (await client.post("/v1/feedback", json={**PICK, "user": user})).status_code == 200
        assert (await client.get(path)).json()["user"] == user
        assert (await client.delete(path)).json()["deleted"]["feedback"] == 1

    ask(hall, talk)


MALFORMED: list[tuple[Any, int]] = [
    (b"{", 400),
    ([], 400),
    ({}, 400),
    ({**PICK, "user": None}, 400),
    ({**PICK, "user": ""}, 400),
    ({**PICK, "user": " ana"}, 400),
    ({**PICK, "user": "a\0na"}, 400),
    ({**PICK, "user": "a\u202ena"}, 400),
    ({**PICK, "user": ".."}, 400),
    ({**PICK, "user": "a" * 201}, 400),
    ({**PICK, "user": 7}, 400),
    ({**PICK, "query": ""}, 400),
    ({**PICK, "query": " "}, 400),
    ({**PICK, "query": []}, 400),
    ({**PICK, "query": [{"role": "user", "content": "a chat"}]}, 400),
    ({**PICK, "candidates": None}, 400),
    ({**PICK, "candidates": []}, 400),
    ({**PICK, "candidates": ["a"], "picked": 0}, 400),
    ({**PICK, "candidates": ["a", ""], "picked": 0}, 400),
    ({**PICK, "candidates": ["a", 1], "picked": 0}, 400),
    ({**PICK, "candidates": "ab", "picked": 0}, 400),
    ({**PICK, "candidates": ["a"] * 21, "picked": 0}, 413),
    ({**PICK, "picked": 4}, 400),
    ({**PICK, "picked": -1}, 400),
    ({**PICK, "picked": "0"}, 400),
    ({**PICK, "picked": True}, 400),
    ({**PICK, "picked": []}, 400),
    ({**PICK, "picked": [0, 1, 2, 3]}, 400),
    ({**PICK, "picked": None}, 400),
    ({**PICK, "scores": [1, 2, 3, 4]}, 400),
    ({**PICK, "picked": None, "scores": [1, 2, 3]}, 400),
    ({**PICK, "picked": None, "scores": [1, 1, 1, 1]}, 400),
    ({**PICK, "picked": None, "scores": ["1", 2, 3, 4]}, 400),
    (json.dumps({**PICK, "picked": None, "scores": [1, 2, 3, math.nan]}).encode(), 400),
    ({**PICK, "picked": None, "candidates": None, "chosen": "a"}, 400),
    ({**PICK, "picked": None, "candidates": None, "chosen": "a", "rejected": ""}, 400),
    ({**PICK, "chosen": "a", "rejected": "b"}, 400),
    (b'{"user": "ana", "query": "\\ud800", "chosen": "a", "rejected": "b"}', 400),
    ({**PICK, "model": "nowhere"}, 404),
    ({**PICK, "model": "unteachable"}, 400),
]


def test_malformed_feedback_gets_the_right_code_and_nothing_is_kept(hall: Hall) -> None:
    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        headers = {"content-type": "application/json"}
        contents = [body if isinstance(body, bytes) else json.dumps(body).encode() for body, _ in MALFORMED]
        return [await client.post("/v1/feedback", content=content, headers=headers) for content in contents]

    for (body, status), answer in zip(MALFORMED, ask(hall, talk), strict=True):
        assert answer.status_code == status, (body, answer.text)
        assert answer.json()["error"]["code"] == status and not leaks(answer.text), (body, answer.text)
    assert hall.database is not None and hall.database.describe("ana", {}) == []


def test_a_chat_that_the_models_template_refuses_is_not_kept_as_feedback(chat_llama: Path, tmp_path: Path) -> None:
    model = LanguageModel(model=str(chat_llama), depths=[0.5])
    hall = taught(Reranker(PointRanker(feature_dim=32), model), tmp_path / "feedback.sqlite", learn_after=1)
    chats = [[{"role": role, "content": "a"}, {"role": "user", "content": "b"}] for role in ("system", "assistant")]

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        found = [await client.post("/v1/feedback", json={**PICK, "query": chat}) for chat in chats]
        await train(hall)
        return found

    refused, kept = ask(hall, talk)
    assert refused.status_code == 400 and "template refuses this chat" in refused.json()["error"]["message"]
    assert kept.status_code == 200
    assert hall.database is not None
    (state,) = hall.database.describe("ana", {"tiny": hall.heads["tiny"].base_sha256})
    assert (state["feedback"], state["learnt"]) == (1, 1), "the training has ended"


def test_a_language_model_reads_each_piece_of_feedback_once(
    chat_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LanguageModel(model=str(chat_llama), depths=[0.5])
    reranker = Reranker(PointRanker(feature_dim=32), model)
    hall = taught(reranker, tmp_path / "feedback.sqlite", learn_after=1)
    read: list[Any] = []
    given: list[list[Any]] = []
    batches = reranker.batches

    def note(asked: Any) -> Any:
        read.extend(each.query for each in asked)
        return batches(asked)

    def learnt(folder: str, labelled: Any, present: Any) -> Any:
        given.append(labelled)
        return learn(folder, labelled, present)

    monkeypatch.setattr(reranker, "batches", note)
    monkeypatch.setattr("serving.server.learner.learn", learnt)

    async def talk(client: httpx.AsyncClient) -> None:
        learner = Learner(hall, lambda: ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)))
        learner.prepare()
        for query in ("open", "sort", "write"):
            assert (await client.post("/v1/feedback", json={**PICK, "query": query})).status_code == 200
            await learner.learn_all()
        # A query and four candidates of 32 numbers each: only the newest two fit.
        monkeypatch.setattr("serving.server.learner.MOST_NUMBERS", 2 * 5 * 32)
        await client.post("/v1/feedback", json={**PICK, "query": "return"})
        await learner.learn_all()
        await learner.close()

    ask(hall, talk)
    assert read == ["open", "sort", "write", "return"]
    assert [[each.number for each in pieces] for pieces in given] == [[1], [1, 2], [1, 2, 3], [3, 4]]
    own = batches([Asked("open", PICK["candidates"])])[0]
    assert (given[1][0].candidates == own.unique_candidates.numpy()).all()  # type: ignore[union-attr]


def test_feedback_too_long_for_the_model_is_logged_and_the_rest_is_learnt(
    chat_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = LanguageModel(model=str(chat_llama), depths=[0.5])
    hall = taught(Reranker(PointRanker(feature_dim=32), model), tmp_path / "feedback.sqlite", learn_after=2)
    long = [*PICK["candidates"][:-1], "open " * 5000]

    async def talk(client: httpx.AsyncClient) -> None:
        for candidates in (PICK["candidates"], long):
            answer = await client.post("/v1/feedback", json={**PICK, "candidates": candidates})
            assert answer.status_code == 200
        await train(hall)

    with caplog.at_level("INFO", logger="serving"):
        ask(hall, talk)
    logged = [getattr(each, "fields", {}) for each in caplog.records]
    [unread] = [each for each in logged if each.get("event") == "feedback_too_long"]
    assert unread["feedback"] == 2 and "open open" not in str(unread)
    assert any(each.get("event") == "training" for each in logged)


def test_what_a_language_model_has_read_stays_within_its_limit() -> None:
    read = _Read(20)
    for place in range(5):
        read.add(("r", bytes([place])), (np.zeros(2), np.full((3, 2), float(place))))
    assert [place for place in range(5) if read.get(("r", bytes([place])))] == [3, 4]
    read.get(("r", b"\3"))
    read.add(("r", b"new"), (np.zeros(2), np.zeros((3, 2))))
    assert read.get(("r", b"\3")) is not None and read.get(("r", b"\4")) is None
    read.add(("r", b"large"), (np.zeros(30), np.zeros((3, 30))))
    assert read.get(("r", b"large")) is None and not read._size


def test_other_malformed_requests_about_users_get_the_right_code(hall: Hall) -> None:
    long = {"idempotency-key": "a" * 201}
    requests: list[tuple[str, str, Any, dict[str, str], int]] = [
        ("POST", "/v1/feedback", PICK, long, 400),
        ("POST", "/v1/feedback", PICK, {"idempotency-key": "two words"}, 400),
        ("POST", "/v1/feedback", PICK, {"content-type": "text/plain"}, 415),
        ("GET", "/v1/feedback", None, {}, 405),
        ("GET", "/v1/users/", None, {}, 400),
        ("GET", "/v1/users/%00", None, {}, 400),
        ("GET", "/v1/users/nobody", None, {}, 404),
        ("GET", f"/v1/users/{'a' * 201}", None, {}, 400),
        ("POST", "/v1/users/ana", {}, {}, 405),
        ("PATCH", "/v1/users/ana", {}, {}, 400),
        ("PATCH", "/v1/users/ana", {"version": -1}, {}, 400),
        ("PATCH", "/v1/users/ana", {"version": 2**40}, {}, 400),
        ("PATCH", "/v1/users/ana", {"version": "0"}, {}, 400),
        ("PATCH", "/v1/users/ana", {"version": 0}, {}, 404),
        ("PATCH", "/v1/users/ana", {"version": 0, "model": "unteachable"}, {}, 400),
        ("PATCH", "/v1/users/ana", {"version": 0, "model": "nowhere"}, {}, 404),
        ("POST", "/v1/rerank", {"query": "a", "documents": ["b"], "user": ""}, {}, 422),
        ("POST", "/v1/rerank", {"query": "a", "documents": ["b"], "user": "ana", "model": "unteachable"}, {}, 400),
        ("POST", "/v1/search", {"query": "a", "user": "ana"}, {}, 404),
    ]

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        found = []
        for method, path, body, headers, _ in requests:
            given = {"content-type": "application/json", **headers} if body is not None else headers
            content = None if body is None else json.dumps(body).encode()
            found.append(await client.request(method, path, content=content, headers=given))
        return found

    for (method, path, body, _, status), answer in zip(requests, ask(hall, talk), strict=True):
        assert answer.status_code == status, (method, path[:50], body, answer.text)
        assert not leaks(answer.text), answer.text


def leaks(text: str) -> list[str]:
    """Words that only the server's inside has."""
    pattern = r"Traceback|\.py\b|0x[0-9a-f]{6,}|pydantic|torch|sqlalchemy|sqlite|INSERT|SELECT|feedback\."
    return re.findall("|".join([pattern, re.escape(tempfile.gettempdir())]), text, re.IGNORECASE)


def test_a_ranker_that_cannot_learn_says_so(reranker: Reranker, hall: Hall) -> None:
    answer = post(hall, "/v1/rerank", {"query": "a", "documents": ["b"], "user": "ana", "model": "unteachable"})
    message = "unteachable does not learn from users' feedback, so it takes no user; there are: tiny"
    assert answer.status_code == 400 and answer.json()["message"] == message
    assert post(hall_of(reranker), "/v1/feedback", PICK).status_code == 400
    assert ask(hall_of(reranker), lambda client: client.get("/v1/users/ana")).status_code == 404


@pytest.mark.parametrize("path", ["/v1/feedback", "/v1/rerank", "/v1/users/ana"])
def test_a_database_that_does_not_answer_is_a_503(hall: Hall, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise OperationalError("SELECT secret", {}, Exception("/root/secret is locked"))

    for name in ("add", "version", "describe"):
        monkeypatch.setattr(hall.database, name, fail)
    body = {**PICK, "documents": ["a"]}
    method = "GET" if "users" in path else "POST"
    answer = ask(hall, lambda client: client.request(method, path, **({} if method == "GET" else {"json": body})))
    assert answer.status_code == 503 and "secret" not in answer.text and answer.headers["retry-after"] == "2"


@pytest.mark.parametrize("path", ["/v1/feedback", "/v1/rerank", "/v1/users/ana"])
def test_a_database_that_is_silent_is_a_503(
    reranker: Reranker, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hall = taught(reranker, tmp_path / "feedback.sqlite", timeout=0.2)
    speaks = threading.Event()
    for name in ("version", "describe"):
        monkeypatch.setattr(hall.database, name, lambda *arguments: speaks.wait(20))

    async def talk(client: httpx.AsyncClient) -> httpx.Response:
        method, body = ("GET", {}) if "users" in path else ("POST", {"json": {**PICK, "documents": ["a"]}})
        answer = await client.request(method, path, **body)
        speaks.set()
        return answer

    answer = ask(hall, talk)
    assert answer.status_code == 503 and "database" in answer.text and answer.headers["retry-after"] == "2"


def test_feedback_that_is_answered_with_an_error_is_not_kept(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise OperationalError("SELECT secret", {}, Exception("is locked"))

    monkeypatch.setattr(hall.database, "version", fail)
    assert post(hall, "/v1/feedback", PICK).status_code == 503
    assert hall.database is not None and hall.database.feedback("tiny", "ana", 9) == []


def test_feedback_that_is_kept_is_answered_whatever_becomes_of_the_database_then(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hall.database is not None
    add = hall.database.add

    def fail(*arguments: Any) -> Any:
        raise OperationalError("SELECT secret", {}, Exception("is locked"))

    def add_last(*arguments: Any) -> Any:
        given = add(*arguments)
        monkeypatch.setattr(hall.database, "version", fail)
        return given

    monkeypatch.setattr(hall.database, "add", add_last)
    answer = post(hall, "/v1/feedback", PICK)
    assert answer.status_code == 200 and answer.json()["feedback"] == 1


def test_a_training_that_fails_is_logged_and_others_go_on(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("no memory")

    async def talk(client: httpx.AsyncClient) -> None:
        for user in ("ana", "ben"):
            for _ in range(5):
                await client.post("/v1/feedback", json={**PICK, "user": user})
            with monkeypatch.context() as patched:
                if user == "ana":
                    patched.setattr("serving.server.learner.learn", fail)
                await train(hall)
        assert (await client.get("/v1/users/ana")).json()["rankers"][0]["learnt"] == 0
        assert (await client.get("/v1/users/ben")).json()["rankers"][0]["learnt"] == 5

    ask(hall, talk)
    assert "no memory" in caplog.text


def test_a_failure_outside_a_training_does_not_end_the_training_of_heads(
    reranker: Reranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hall = taught(reranker, tmp_path / "feedback.sqlite", learn_every=0.01)
    assert hall.database is not None
    asked, lease = asyncio.Event(), hall.database.lease

    def fail_once(*arguments: Any) -> Any:
        monkeypatch.setattr(hall.database, "lease", again)
        raise RuntimeError("can't start new thread")

    def again(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(asked.set)
        return lease(*arguments)

    async def talk(client: httpx.AsyncClient) -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(hall.database, "lease", fail_once)
        learner = Learner(hall)
        learner.start()
        async with asyncio.timeout(30):
            await asked.wait()
        await learner.close()

    loop: asyncio.AbstractEventLoop
    ask(hall, talk)
    assert "can't start new thread" in caplog.text


def test_two_servers_of_one_database_train_each_user_once_and_both_serve_it(tiny_bert: Path, database_url: str) -> None:
    def server() -> Hall:
        torch.manual_seed(0)
        encoder = Encoder(model=str(tiny_bert), max_length=32)
        return taught(Reranker(ListRanker(encoder.feature_dim), encoder), database_url)

    halls = [server(), server()]
    users = [f"user {place}" for place in range(4)]

    async def both(one: httpx.AsyncClient) -> None:
        async def second(other: httpx.AsyncClient) -> None:
            await asyncio.gather(
                *(
                    (one, other)[place % 2].post("/v1/feedback", json={**PICK, "user": user, "picked": place % 4})
                    for user in users
                    for place in range(5)
                )
            )
            await asyncio.gather(train(halls[0]), train(halls[1]))
            for user in users:
                mine, theirs = [await rerank(client, user) for client in (one, other)]
                assert order(mine) == order(theirs)
                assert mine["meta"]["personal"] == theirs["meta"]["personal"]

        await talk_in_this_loop(halls[1], second)

    ask(halls[0], both)
    trained = [hall.metrics.text().decode() for hall in halls]
    counts = re.findall(r"^rankers_trainings_total\{.*\} ([\d.]+)$", "\n".join(trained), re.MULTILINE)
    assert sum(map(float, counts)) == len(users), "each user is trained once, by one of them"


async def talk_in_this_loop(hall: Hall, talk: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    from serving.server.app import create_app

    transport = httpx.ASGITransport(create_app(hall))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        try:
            await talk(client)
        finally:
            await hall.close()
