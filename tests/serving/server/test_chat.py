"""Chat completions: the best of N in OpenAI's form, to OpenAI's own client, with the scores of the offline path."""

import asyncio
import http.server
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import httpx2
import openai
import pytest
import torch
from halls import DOCUMENTS, Scored, ask, hall_of, taught, train

from features.generators.transformers import TransformersGenerator
from language_models.language_model import LanguageModel
from rankers.checkpoint import save_pretrained
from rankers.language_ranker.point_ranker import PointRanker
from serving.chat.best_of import Answer, BestOf
from serving.chat.endpoint import Endpoint
from serving.feedback.database import FeedbackDatabase
from serving.reranker import Reranker
from serving.server.app import create_app
from serving.server.chats.endpoint_chat import EndpointChat
from serving.server.chats.sampling import FairLock
from serving.server.errors import RequestError
from serving.server.hall import Hall
from serving.server.loading import load, named
from serving.server.settings import Settings

T = TypeVar("T")

PATH = "/v1/chat/completions"
CHAT: list[Any] = [{"role": "user", "content": "open the file"}]
OTHER: list[Any] = [{"role": "user", "content": "sort a list"}]


@pytest.fixture
def best_of(chat_llama: Path) -> BestOf:
    options: dict[str, Any] = {"max_new_tokens": 12, "num_responses": 5, "device": "cpu", "dtype": "float32"}
    torch.manual_seed(0)
    return BestOf(PointRanker(feature_dim=32), TransformersGenerator(model=str(chat_llama), depths=[0.5], **options))


def chat_hall(best_of: BestOf, **settings: Any) -> Hall:
    hall = hall_of(**settings)
    hall.add_chat("tiny", best_of)
    return hall


def talk(hall: Hall, with_client: Callable[[openai.AsyncOpenAI], Awaitable[T]]) -> T:
    """Let a function talk to a hall by OpenAI's client."""

    async def run(_: Any) -> T:
        transport = httpx2.ASGITransport(create_app(hall))
        async with httpx2.AsyncClient(transport=transport) as own:
            return await with_client(
                openai.AsyncOpenAI(api_key="none", base_url="http://localhost/v1", http_client=own, max_retries=0)
            )

    return ask(hall, run)


def offline(best_of: BestOf, **options: Any) -> Answer:
    return best_of.ask([best_of.question(CHAT, **options)])[0]


def test_the_best_response_comes_back_with_the_scores_of_the_offline_path_to_the_bit(best_of: BestOf) -> None:
    expected = offline(best_of, seed=7)

    async def run(client: openai.AsyncOpenAI) -> Any:
        return await client.chat.completions.create(
            model="tiny", messages=CHAT, seed=7, extra_body={"return_candidates": True}
        )

    found = talk(chat_hall(best_of), run)
    best = expected.candidates[0]
    assert found.object == "chat.completion" and found.model == "tiny" and found.id.startswith("chatcmpl-")
    (choice,) = found.choices
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert (choice.message.content, choice.finish_reason) == (best.text, best.finish)
    ranking = found.model_extra["ranking"]
    assert [(each["index"], each["text"], each["score"]) for each in ranking["candidates"]] == [
        (each.number, each.text, each.score) for each in expected.candidates
    ]
    assert (ranking["num_candidates"], ranking["chosen"], ranking["seed"]) == (5, best.number, 7)
    assert ranking["candidates"][ranking["first"]]["index"] == 0
    counts = found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens
    assert counts == (expected.prompt_tokens, expected.new_tokens, expected.prompt_tokens + expected.new_tokens)


def test_the_options_of_a_request_are_those_of_sampling(best_of: BestOf) -> None:
    options = {"num_candidates": 7, "temperature": 1.4, "top_p": 0.9, "max_tokens": 6, "stop": ["e"], "seed": 11}
    expected = offline(best_of, **options)

    async def run(client: openai.AsyncOpenAI) -> Any:
        more = {"ranker": "tiny", "candidates": 7}
        asked = {"temperature": 1.4, "top_p": 0.9, "max_completion_tokens": 6, "stop": "e", "seed": 11, "n": 3}
        create = client.chat.completions.create
        return await create(model="any", messages=CHAT, extra_body=more, **asked)  # type: ignore[call-overload]

    found = talk(chat_hall(best_of), run)
    assert [each.message.content for each in found.choices] == [each.text for each in expected.candidates[:3]]
    assert [each.index for each in found.choices] == [0, 1, 2]
    assert "candidates" not in found.model_extra["ranking"]


def test_a_stream_has_the_winner_in_pieces(best_of: BestOf) -> None:
    best = offline(best_of, seed=7).candidates[:2]

    async def run(client: openai.AsyncOpenAI) -> list[Any]:
        options: dict[str, Any] = {"stream_options": {"include_usage": True}, "n": 2, "seed": 7}
        stream = await client.chat.completions.create(model="tiny", messages=CHAT, stream=True, **options)
        return [each async for each in stream]

    *chunks, last = talk(chat_hall(best_of), run)
    for place, each in enumerate(best):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == place]
        assert own[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in own) == each.text
        assert [choice.finish_reason for choice in own] == [None] * (len(own) - 1) + [each.finish]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"} and len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].model_extra["ranking"]["chosen"] == best[0].number
    assert last.choices == [] and last.usage.completion_tokens > 0


def test_the_events_of_a_stream_are_those_of_the_standard(best_of: BestOf) -> None:
    body = {"messages": CHAT, "stream": True, "seed": 7}
    answer = ask(chat_hall(best_of), lambda client: client.post(PATH, json=body))
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-1] == "" and events[-2] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert all("usage" not in chunk for chunk in chunks)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == offline(best_of, seed=7).candidates[0].text


def test_without_a_seed_each_request_has_its_own_and_says_which(best_of: BestOf) -> None:
    async def run(client: httpx.AsyncClient) -> list[Any]:
        return [(await client.post(PATH, json={"messages": CHAT})).json() for _ in range(2)]

    first, second = ask(chat_hall(best_of), run)
    assert first["ranking"]["seed"] != second["ranking"]["seed"]
    again = offline(best_of, seed=first["ranking"]["seed"])
    assert first["choices"][0]["message"]["content"] == again.candidates[0].text


def test_requests_that_run_together_are_sampled_together(best_of: BestOf) -> None:
    shapes: list[tuple[int, ...]] = []
    embed = best_of.generator.loaded.model.embed_tokens
    alone = [offline(best_of, seed=seed) for seed in range(6)]
    hook = embed.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output.shape[:2])))

    async def run(client: httpx.AsyncClient) -> list[Any]:
        posts = (client.post(PATH, json={"messages": CHAT, "seed": seed, "max_tokens": 12}) for seed in range(6))
        return [answer.json() for answer in await asyncio.gather(*posts)]

    hall = chat_hall(best_of)
    found = ask(hall, run)
    hook.remove()
    steps = [rows for rows, width in shapes if width == 1]
    assert max(steps) > 20, "the responses of several requests are rows of one step"
    for answer, expected in zip(found, alone, strict=True):
        assert answer["choices"][0]["message"]["content"] == expected.candidates[0].text
        assert answer["usage"]["completion_tokens"] == expected.new_tokens
    value = hall.metrics.registry.get_sample_value
    assert value("rankers_candidates_total", {"ranker": "tiny"}) == 30
    sampled = value("rankers_tokens_total", {"ranker": "tiny", "kind": "sampled"})
    assert sampled == sum(each.new_tokens for each in alone)
    for part in ("sampling", "ranking"):
        assert value("rankers_chat_seconds_count", {"ranker": "tiny", "part": part}) == 6


def test_the_ranker_that_chooses_depends_on_the_user(best_of: BestOf, monkeypatch: pytest.MonkeyPatch) -> None:
    def ranker_of(hall: Hall, name: str, user: str | None) -> Any:
        return best_of.ranker if user is None else lambda batch: -best_of.ranker(batch)

    monkeypatch.setattr(Hall, "ranker_of", ranker_of)
    hall = chat_hall(best_of)
    hall.heads["tiny"] = None  # type: ignore[assignment]

    async def run(client: httpx.AsyncClient) -> list[str]:
        bodies = [{"messages": CHAT, "seed": 7}, {"messages": CHAT, "seed": 7, "user": "someone"}]
        found = [(await client.post(PATH, json=body)).json() for body in bodies]
        return [each["choices"][0]["message"]["content"] for each in found]

    order = offline(best_of, seed=7).candidates
    assert ask(hall, run) == [order[0].text, order[-1].text]


async def teach(client: httpx.AsyncClient, hall: Hall, picked: int) -> None:
    """Let ana pick one document five times, and learn from it."""
    body = {"user": "ana", "query": CHAT[0]["content"], "candidates": DOCUMENTS[:4], "picked": picked}
    for _ in range(5):
        assert (await client.post("/v1/feedback", json=body)).status_code == 200
    await train(hall)
    (kept,) = (await client.get("/v1/users/ana")).json()["rankers"]
    assert (kept["version"], kept["last_training"]["outcome"]) == (1, "a new head")


def test_a_head_that_a_user_has_taught_chooses_the_responses_to_the_user(best_of: BestOf, tmp_path: Path) -> None:
    reranker = Reranker(best_of.ranker, best_of.generator)
    worst = reranker.rank(CHAT[0]["content"], DOCUMENTS[:4])[-1].index
    hall = chat_hall(best_of)
    hall.add_reranker("tiny", reranker)
    hall.keep_feedback(FeedbackDatabase(tmp_path / "feedback.sqlite"))
    base = [(each.number, each.score) for each in offline(best_of, seed=7).candidates]

    def by_head() -> list[tuple[int, float]]:
        begun, batch = best_of.begin(best_of.question(CHAT, seed=7)), best_of.generator.growing_batch()
        sampled = batch.add(begun.prompt, range(begun.num_candidates))
        while not sampled.has_ended:
            batch.advance()
        score = hall.heads["tiny"].head("ana").score
        answer = best_of.rank(begun.generator.generated(begun.task, sampled), 0.0, score)
        return [(each.number, each.score) for each in answer.candidates]

    async def run(client: httpx.AsyncClient) -> None:
        async def chat(user: str | None) -> list[tuple[int, float]]:
            body = {"messages": CHAT, "seed": 7, "return_candidates": True, "user": user}
            found = (await client.post(PATH, json=body)).json()["ranking"]
            assert found["chosen"] == found["candidates"][0]["index"]
            return [(each["index"], each["score"]) for each in found["candidates"]]

        assert await chat("ana") == base
        await teach(client, hall, worst)
        mine = await chat("ana")
        assert mine == by_head() and dict(mine) != dict(base)
        assert await chat(None) == await chat("ben") == base
        await client.patch("/v1/users/ana", json={"version": 0})
        assert await chat("ana") == base
        await client.patch("/v1/users/ana", json={"version": 1})
        assert await chat("ana") == mine
        await client.delete("/v1/users/ana")
        assert await chat("ana") == base

    ask(hall, run)


def test_a_client_that_leaves_is_sampled_for_no_longer(best_of: BestOf) -> None:
    steps: list[int] = []
    offline(best_of)
    embed = best_of.generator.loaded.model.embed_tokens
    begun = threading.Event()

    def count(module: Any, inputs: Any, output: Any) -> None:
        steps.append(len(output))
        if len(steps) > 3:
            begun.set()

    hook = embed.register_forward_hook(count)
    hall = chat_hall(best_of)
    scope = {
        "type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")], "http_version": "1.1",
        "scheme": "http", "client": ("127.0.0.1", 1), "server": ("localhost", 80), "asgi": {"version": "3.0"},
    }  # fmt: skip
    body = {"messages": CHAT, "seed": 7, "max_tokens": 100, "candidates": 20}

    async def run() -> None:
        first: list[Any] = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> Any:
            if first:
                return first.pop()
            await asyncio.to_thread(begun.wait, 20)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            assert message.get("status", 499) == 499

        await create_app(hall)(scope, receive, send)
        assert hall.chats["tiny"].size == 0
        await hall.close()

    asyncio.run(run())
    hook.remove()
    assert 3 < len(steps) < 60, "a hundred tokens would take a hundred steps"


def test_too_many_candidates_wait_too_long_or_come_too_late(best_of: BestOf) -> None:
    async def run(client: httpx.AsyncClient) -> list[httpx.Response]:
        bodies = ({"messages": CHAT, "candidates": 6, "max_tokens": 50, "seed": seed} for seed in range(3))
        return await asyncio.gather(*(client.post(PATH, json=body) for body in bodies))

    answers = ask(chat_hall(best_of, max_waiting_candidates=12), run)
    assert sorted(each.status_code for each in answers) == [200, 200, 429]
    (refused,) = (each for each in answers if each.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1 and refused.json()["error"]["type"] == "rate_limit_error"
    hurried = ask(chat_hall(best_of, chat_timeout=0.001), run)
    assert {each.status_code for each in hurried} == {504}


def test_a_thread_that_waits_for_the_model_comes_before_the_next_step() -> None:
    lock, order = FairLock(), []

    def read() -> None:
        with lock:
            order.append("read")

    with lock:
        reader = threading.Thread(target=read)
        reader.start()
        while not lock._turn.locked():
            pass
    with lock:
        order.append("step")
    reader.join()
    assert order == ["read", "step"]


def test_a_server_that_ends_finishes_what_it_has_begun_and_takes_no_more(best_of: BestOf) -> None:
    hall = chat_hall(best_of)

    async def run() -> None:
        question = best_of.question(CHAT, seed=7)
        running = asyncio.create_task(hall.chat("tiny", question))
        while not hall.chats["tiny"].size:
            await asyncio.sleep(0.001)
        await hall.close()
        assert (await running).candidates == offline(best_of, seed=7).candidates
        with pytest.raises(RequestError) as caught:
            await hall.chat("tiny", question)
        assert caught.value.status == 503

    asyncio.run(run())


def test_a_failure_of_the_model_is_told_and_does_not_end_sampling(best_of: BestOf) -> None:
    model = best_of.generator.loaded
    expected = offline(best_of, seed=7).candidates[0].text

    async def run(client: httpx.AsyncClient) -> None:
        def fail(*arguments: Any) -> None:
            raise RuntimeError("out of memory")

        hook = model.model.embed_tokens.register_forward_hook(fail)
        failed = await client.post(PATH, json={"messages": CHAT})
        hook.remove()
        assert failed.status_code == 500 and "memory" not in failed.text
        good = await client.post(PATH, json={"messages": CHAT, "seed": 7})
        assert good.json()["choices"][0]["message"]["content"] == expected

    ask(chat_hall(best_of), run)


def test_openai_gets_its_own_errors(best_of: BestOf) -> None:
    async def run(client: openai.AsyncOpenAI) -> None:
        create: Any = client.chat.completions.create
        with pytest.raises(openai.NotFoundError, match="no ranker 'other' that can chat; there are: tiny"):
            await create(model="other", messages=CHAT)
        with pytest.raises(openai.BadRequestError, match="prompt too long"):
            await create(model="tiny", messages=[{"role": "user", "content": "open the file " * 100}])
        with pytest.raises(openai.BadRequestError, match="tools is not supported"):
            await create(model="tiny", messages=CHAT, tools=[{"type": "function", "function": {"name": "f"}}])
        with pytest.raises(openai.BadRequestError, match="n is 6, more than the 5 candidates"):
            await create(model="tiny", messages=CHAT, n=6)
        with pytest.raises(openai.BadRequestError, match="template refuses this chat"):
            await create(model="tiny", messages=[{"role": "developer", "content": "a"}, *CHAT])
        listed = (await client.models.list()).data
        assert [each.id for each in listed] == ["tiny"] and listed[0].model_extra["does"] == "chat"

    talk(chat_hall(best_of), run)


# What the server answers to a chat, which repeats it: the status and the reason.
FAILURES = {
    "a secret that breaks it": (500, "cannot read: a secret that breaks it"),
    "a secret for others": (401, "no key for: a secret for others"),
    "a secret on disk": (400, "a secret on disk is not in /srv/models/secret.py"),
    "a secret with a colon": (400, "not found:/srv/models/secret.py"),
    "a secret on a drive": (400, "C:/models/secret.py is not there"),
    "a secret with an address": (400, "file:///srv/models/secret.py is not there"),
}
OTHER_FORMS: dict[str, Any] = {"list": [1, 2], "no choices": {"answer": "private"}}


class ModelServer(http.server.BaseHTTPRequestHandler):
    """Answers a request for n responses with at most two, or refuses it where it gives one alone."""

    texts, asked, most, refuses_several = ("short", "", "a longer one", "the longest of all"), [], 2, False
    waits, goes_on = threading.Event(), threading.Event()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body["messages"][-1]["content"] == "wait":
            self.waits.set()
            self.goes_on.wait(120)
            return
        self.asked.append((body, self.headers["authorization"]))
        first = sum(min(each["n"], self.most) for each, _ in self.asked[:-1] if not self._refuses(each))
        texts = self.texts[first : first + min(body["n"], self.most)]
        choices = [{"message": {"content": text}, "finish_reason": "length"} for text in texts]
        status = 400 if self._refuses(body) else FAILURES.get(body["messages"][-1]["content"], (200, ""))[0]
        given = {"choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": len(texts)}}
        given = OTHER_FORMS.get(body["messages"][-1]["content"], given)
        said = FAILURES.get(body["messages"][-1]["content"], (400, "no such chat"))[1]
        content = json.dumps(given if status == 200 else {"error": {"message": said}}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refuses(self, body: Any) -> bool:
        return body["messages"][-1]["content"] == "refuse" or (self.refuses_several and body["n"] > 1)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def model_server() -> Iterator[str]:
    ModelServer.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ModelServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


class Plain(Scored):
    encoder = None


def test_a_ranker_of_texts_chooses_among_the_responses_of_an_endpoint(model_server: str) -> None:
    queries: list[Any] = []

    def lengths(asked: Any) -> list[float]:
        queries.append(asked.query)
        return [float(len(text)) for text in asked.documents]

    hall = hall_of(Plain(lengths))
    hall.add_endpoint_chat("tiny", Endpoint(model_server, "big-model", api_key="secret"))
    body = {"messages": [*CHAT, {"role": "assistant", "content": "done"}, *OTHER], "candidates": 4, "max_tokens": 9}

    async def run(client: httpx.AsyncClient) -> tuple[Any, Any]:
        good = await client.post(PATH, json={**body, "temperature": 0.5, "seed": 3, "return_candidates": True})
        bad = await client.post(PATH, json={"messages": [{"role": "user", "content": "refuse"}]})
        return good.json(), bad

    found, bad = ask(hall, run)
    assert found["choices"][0]["message"]["content"] == "the longest of all"
    assert found["choices"][0]["finish_reason"] == "length"
    # An empty response is the worst.
    assert [each["text"] for each in found["ranking"]["candidates"]][-1] == ""
    assert sorted(each["text"] for each in found["ranking"]["candidates"]) == sorted(ModelServer.texts)
    assert found["usage"] == {"prompt_tokens": 15, "completion_tokens": 4, "total_tokens": 19}
    assert queries == ["sort a list"], "a ranker of texts reads what the user said last"
    first, key = ModelServer.asked[0]
    assert key == "Bearer secret" and first["model"] == "big-model" and first["messages"] == body["messages"]
    assert (first["n"], first["temperature"], first["max_tokens"]) == (4, 0.5, 9)
    assert [each["n"] for each, _ in ModelServer.asked] == [4, 1, 1, 10, 1]
    assert len({each["seed"] for each, _ in ModelServer.asked}) == 4
    assert bad.status_code == 400 and "no such chat" in bad.json()["error"]["message"]


def test_a_head_that_a_user_has_taught_chooses_among_the_responses_of_an_endpoint(
    model_server: str, reranker: Reranker, tmp_path: Path
) -> None:
    hall = taught(reranker, tmp_path / "feedback.sqlite")
    hall.add_endpoint_chat("tiny", Endpoint(model_server, "big-model"))
    worst = reranker.rank(CHAT[0]["content"], DOCUMENTS[:4])[-1].index

    async def run(client: httpx.AsyncClient) -> None:
        async def chat(user: str | None) -> dict[str, float]:
            ModelServer.asked.clear()  # so that it has all its texts again
            body = {"messages": CHAT, "candidates": 4, "return_candidates": True, "user": user}
            found = (await client.post(PATH, json=body)).json()["ranking"]["candidates"]
            return {each["text"]: each["score"] for each in found if each["text"]}

        async def reranked(user: str | None) -> dict[str, float]:
            texts = [text for text in ModelServer.texts if text]
            body = {"query": CHAT[0]["content"], "documents": texts, "raw_scores": True, "user": user}
            found = (await client.post("/v1/rerank", json=body)).json()
            assert found["meta"].get("personal") == (None if user is None else {"version": 1})
            return {texts[each["index"]]: each["relevance_score"] for each in found["results"]}

        base = await chat("ana")
        await teach(client, hall, worst)
        mine = await chat("ana")
        assert mine == await reranked("ana") != base
        assert list(mine) == sorted(mine, key=lambda text: -mine[text])
        assert await chat(None) == await reranked(None) == base

    ask(hall, run)


def test_an_endpoint_that_refuses_several_responses_is_asked_for_one_at_a_time(
    model_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelServer, "refuses_several", True)
    monkeypatch.setattr(ModelServer, "texts", ("a", "ab", "abc", "b", "bc", "bcd"))
    hall = hall_of(Plain(lambda asked: [float(len(text)) for text in asked.documents]))
    hall.add_endpoint_chat("tiny", Endpoint(model_server, "big-model"))

    async def run(client: httpx.AsyncClient) -> list[Any]:
        return [(await client.post(PATH, json={"messages": CHAT, "candidates": 3})).json() for _ in range(2)]

    found = ask(hall, run)
    assert [each["choices"][0]["message"]["content"] for each in found] == ["abc", "bcd"]
    assert [each["n"] for each, _ in ModelServer.asked] == [3] + 6 * [1], (
        "the second chat knows what the first found out"
    )


def test_an_endpoint_that_refuses_several_greedy_responses_is_asked_for_several_others(
    model_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As vLLM does, since greedy responses are all the same."""
    monkeypatch.setattr(ModelServer, "_refuses", lambda self, body: body["n"] > 1 and body["temperature"] == 0)
    monkeypatch.setattr(ModelServer, "texts", ("a", "ab", "abc", "b", "bc", "bcd"))
    hall = hall_of(Plain(lambda asked: [float(len(text)) for text in asked.documents]))
    hall.add_endpoint_chat("tiny", Endpoint(model_server, "big-model"))

    async def run(client: httpx.AsyncClient) -> list[int]:
        bodies = [{"messages": CHAT, "candidates": 2, "temperature": temperature} for temperature in (0, 1, 0)]
        return [(await client.post(PATH, json=body)).status_code for body in bodies]

    assert ask(hall, run) == [200] * 3
    assert [(each["n"], each["temperature"]) for each, _ in ModelServer.asked] == [
        (2, 0), (1, 0), (1, 0), (2, 1), (1, 0), (1, 0),
    ]  # fmt: skip


def test_a_chat_that_is_given_up_leaves_its_thread_to_others(
    model_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.chat.endpoint._PARALLEL", 1)
    endpoint = Endpoint(model_server, "big-model")
    chat = EndpointChat(endpoint, rank_by_length, Settings(), reads_chats=False)

    async def run() -> Answer:
        slow = chat.question([{"role": "user", "content": "wait"}], num_candidates=1)
        waiting = asyncio.create_task(chat.ask(slow, None))
        assert await asyncio.to_thread(ModelServer.waits.wait, 30)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(60):
            return await chat.ask(chat.question(CHAT, num_candidates=1), None)

    try:
        assert len(asyncio.run(run()).candidates) == 1
    finally:
        ModelServer.goes_on.set()
        endpoint.close()


async def rank_by_length(query: Any, documents: Any, user: str | None) -> list[float]:
    return [float(len(text)) for text in documents]


def test_an_endpoint_that_does_not_answer_is_a_bad_gateway(caplog: pytest.LogCaptureFixture) -> None:
    hall = hall_of(Plain(lambda asked: [1.0]))
    hall.add_endpoint_chat("tiny", Endpoint("http://127.0.0.1:9/v1", "big-model", timeout=1.0))
    answer = ask(hall, lambda client: client.post(PATH, json={"messages": CHAT}))
    assert answer.status_code == 502 and "does not answer" in answer.json()["error"]["message"]
    assert "127.0.0.1" not in answer.text
    [logged] = [found for each in caplog.records if (found := getattr(each, "fields", {})).get("event") == "endpoint"]
    assert logged["problem"] == "does not answer" and "refused" in logged["reason"]


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_an_endpoint_that_answers_in_another_form_is_a_bad_gateway(
    model_server: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    hall = hall_of(Plain(lambda asked: [1.0]))
    hall.add_endpoint_chat("tiny", Endpoint(model_server, "big-model"))
    answer = ask(hall, lambda client: client.post(PATH, json={"messages": [{"role": "user", "content": form}]}))
    assert answer.status_code == 502 and "in another form" in answer.json()["error"]["message"]
    assert "private" not in answer.text and "private" not in caplog.text
    assert any(getattr(each, "fields", {}).get("event") == "endpoint" for each in caplog.records)


@pytest.mark.parametrize("log_texts", [False, True])
@pytest.mark.parametrize(("chat", "status"), [(chat, status) for chat, (status, _) in FAILURES.items() if status > 400])
def test_what_an_endpoint_says_of_its_failure_is_logged_only_with_texts(
    model_server: str, chat: str, status: int, log_texts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hall = hall_of(Plain(lambda asked: [1.0]), log_texts=log_texts)
    endpoint = Endpoint(model_server, "big-model")
    endpoint._server.pause = 0.01
    hall.add_endpoint_chat("tiny", endpoint)
    answer = ask(hall, lambda client: client.post(PATH, json={"messages": [{"role": "user", "content": chat}]}))
    assert answer.status_code == 502 and "secret" not in answer.text
    [logged] = [found for each in caplog.records if (found := getattr(each, "fields", {})).get("event") == "endpoint"]
    assert f"HTTP {status}" in logged["reason"] and ("secret" in logged["reason"]) == log_texts
    assert ("secret" in caplog.text) <= log_texts


@pytest.mark.parametrize("chat", [chat for chat, (status, _) in FAILURES.items() if status == 400])
def test_an_endpoint_that_writes_of_its_files_tells_the_client_its_status_alone(model_server: str, chat: str) -> None:
    hall = hall_of(Plain(lambda asked: [1.0]))
    hall.add_endpoint_chat("tiny", Endpoint(model_server, "big-model"))
    body = {"messages": [{"role": "user", "content": chat}]}
    answer = ask(hall, lambda client: client.post(PATH, json=body))
    message = "the endpoint of the language model refuses this chat: HTTP 400"
    assert answer.status_code == 400 and answer.json()["error"]["message"] == message


def test_what_a_ranker_of_responses_cannot_read_of_an_endpoint_is_refused(model_server: str, chat_llama: Path) -> None:
    model = LanguageModel(model=str(chat_llama), depths=[0.5], dtype="float32")
    hall = hall_of(Reranker(PointRanker(feature_dim=32), model))
    hall.add_endpoint_chat("tiny", Endpoint(model_server, "big-model"))
    long: list[Any] = [{"role": "user", "content": "sort a list " * 100}]
    chats = [long, [{"role": "system", "content": "a"}, *CHAT], CHAT]

    async def run(client: httpx.AsyncClient) -> list[httpx.Response]:
        found = []
        for chat in chats:
            ModelServer.asked.clear()  # so that it has all its texts again
            found.append(await client.post(PATH, json={"messages": chat, "candidates": 4}))
        return found

    *refused, good = ask(hall, run)
    for answer, problem in zip(refused, ["prompt too long", "template refuses this chat"], strict=True):
        assert answer.status_code == 400 and problem in answer.json()["error"]["message"], answer.text
    assert good.status_code == 200 and good.json()["choices"][0]["message"]["content"] in ModelServer.texts


def test_a_saved_ranker_of_responses_is_loaded_with_its_model_once(best_of: BestOf, tmp_path: Path) -> None:
    best_of.ranker.encoder = best_of.generator.identity()
    folder = save_pretrained(best_of.ranker, tmp_path / "saved")
    hall = hall_of()
    load(hall, named([str(folder)], "run"))
    assert hall.does("saved") == ["rerank", "chat"]
    assert isinstance(reranker := hall.rerankers["saved"], Reranker)
    assert reranker.encoder is hall.chats["saved"]._best_of.generator  # type: ignore[union-attr]

    async def run(client: httpx.AsyncClient) -> tuple[Any, Any]:
        chat = {"messages": CHAT, "candidates": 3, "max_tokens": 12, "seed": 7, "return_candidates": True}
        documents = {"query": "open the file", "documents": ["a list", "the value"], "raw_scores": True}
        found = await asyncio.gather(client.post(PATH, json=chat), client.post("/v1/rerank", json=documents))
        return found[0].json(), found[1].json()

    chat, reranked = ask(hall, run)
    read = BestOf.from_pretrained(folder)
    (expected,) = read.ask([read.question(CHAT, seed=7, num_candidates=3, max_tokens=12)])
    assert [each["score"] for each in chat["ranking"]["candidates"]] == [each.score for each in expected.candidates]
    own = Reranker(best_of.ranker, best_of.generator).rank("open the file", ["a list", "the value"])
    assert [each["relevance_score"] for each in reranked["results"]] == [each.score for each in own]


def test_a_ranker_whose_model_has_no_language_head_reranks_but_does_not_chat(
    tiny_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = LanguageModel(model=str(tiny_llama), template="plain", depths=[0.5])
    ranker = PointRanker(feature_dim=32)
    ranker.encoder = model.identity()
    hall = hall_of()
    load(hall, named([str(save_pretrained(ranker, tmp_path / "saved"))], "run"))
    assert hall.does("saved") == ["rerank"] and not hall.chats
    (record,) = (each for each in caplog.records if each.getMessage() == "no chat")
    assert "lacks weights of a causal model" in record.fields["reason"]  # type: ignore[attr-defined]
