"""Responses from a server: each request's seed and share, retries, refusals; against a server of this process."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from features.generators.openai_compatible import OpenAICompatibleGenerator
from features.responses.generation import Generator
from features.texts.tasks import Task
from registry import ConfigError

Answer = Callable[[dict[str, Any], int], tuple[int, Any]]
TASKS = [Task(name, name, [{"role": "user", "content": name}]) for name in ("one", "two")]


class Server:
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Answer = usual
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.asked.append(request)
                    code, reply = server.answer(request, len(server.asked))
                content = json.dumps(reply).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


def usual(request: dict[str, Any], count: int) -> tuple[int, Any]:
    texts = [f"{request['messages'][0]['content']} {request['seed']} {place}" for place in range(request.get("n", 1))]
    finish = ["length", "stop"]
    choices = [{"message": {"content": text}, "finish_reason": finish[len(text) % 2]} for text in texts]
    return 200, {"choices": choices}


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def generator(server: Server, **options: Any) -> OpenAICompatibleGenerator:
    return OpenAICompatibleGenerator(model="m", url=server.url, **{"responses_a_request": 4, "attempts": 2, **options})


def texts(made: OpenAICompatibleGenerator, numbers: range) -> list[list[str]]:
    return [[response.text for response in each.responses] for each in made.generate(TASKS, numbers)]


def test_requests_contain_all_options(server: Server) -> None:
    made = generator(server, temperature=0.5, top_p=0.9, stop=["x"], max_new_tokens=7, options={"top_k": 3})
    assert isinstance(made, Generator)
    (each,) = made.generate(TASKS[:1], range(4))
    (request,) = server.asked
    assert request.pop("seed") >= 0
    assert request == {
        "model": "m",
        "messages": [{"role": "user", "content": "one"}],
        "n": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop": ["x"],
        "top_k": 3,
    }
    assert [response.id for response in each.responses] == list("0123")
    assert each.responses[0].tokens is None and each.responses[0].finish in ("stop", "length")


def test_later_numbers_are_those_of_one_call(server: Server) -> None:
    made = generator(server)
    whole = texts(made, range(10))
    assert [a + b for a, b in zip(texts(made, range(3)), texts(made, range(3, 10)), strict=True)] == whole
    assert len({text for each in whole for text in each}) == 20


def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.answer = lambda request, count: usual(request, count) if count % 2 == 0 else (503, {"error": "busy"})
    assert list(map(len, texts(generator(server, parallel=1), range(8)))) == [8, 8]


def test_a_refused_problem_is_reported_and_the_others_continue(server: Server) -> None:
    def answer(request: dict[str, Any], count: int) -> tuple[int, Any]:
        if request["messages"][0]["content"] == "one":
            return 400, {"error": {"message": "too many tokens"}}
        return usual(request, count)

    server.answer = answer
    first, second = generator(server).generate(TASKS, range(4))
    assert (list(first.responses), first.refusal) == ([], "HTTP 400: too many tokens")
    assert len(second.responses) == 4 and second.refusal is None


def test_a_server_that_refuses_everything_ends_the_run(server: Server) -> None:
    server.answer = lambda request, count: (400, {"error": {"message": "no such option"}})
    with pytest.raises(ConfigError, match=r"refuses every problem of 2 .*no such option"):
        texts(generator(server), range(4))


def test_a_server_whose_answers_are_none_ends_the_run(server: Server) -> None:
    server.answer = lambda request, count: (200, {"choices": [None]})
    with pytest.raises(ConfigError, match=r"refuses every problem of 2 \(an answer in another form"):
        texts(generator(server, attempts=1), range(4))


def test_a_problem_that_is_refused_later_does_not_end_the_run(server: Server) -> None:
    made = generator(server, parallel=1)
    list(made.generate(TASKS[:1], range(4)))
    server.answer = lambda request, count: (403, {"error": "moderated"}) if count == 2 else usual(request, count)
    first, second = made.generate(TASKS, range(4))
    assert (list(first.responses), first.refusal) == ([], "HTTP 403: moderated")
    assert len(second.responses) == 4


def test_too_few_responses_of_a_server_are_an_error(server: Server) -> None:
    server.answer = lambda request, count: usual({**request, "n": 1}, count)
    with pytest.raises(ConfigError, match="gives 1 responses to a request for 4") as caught:
        texts(generator(server), range(4))
    assert "responses_a_request=1" in str(caught.value)


def test_a_server_that_is_gone_ends_the_run() -> None:
    made = OpenAICompatibleGenerator(model="m", url="http://127.0.0.1:9/v1", attempts=1)
    with pytest.raises(ConfigError, match="does not answer") as caught:
        texts(made, range(1))
    assert "the same command to continue" in str(caught.value)


def test_empty_responses_are_kept(server: Server) -> None:
    server.answer = lambda request, count: (200, {"choices": [{"message": {"content": None}}] * request["n"]})
    assert texts(generator(server), range(2)) == [["", ""], ["", ""]]


def test_progress_counts_each_response_once(server: Server) -> None:
    reports: list[tuple[int, int]] = []
    list(generator(server).generate(TASKS, range(2, 9), lambda *report: reports.append(report)))
    assert sum(responses for responses, _ in reports) == 14


def test_settings_are_what_a_response_depends_on(server: Server) -> None:
    made = generator(server)
    assert generator(server, parallel=2, num_responses=4).settings() == made.settings()
    assert generator(server, seed=2).settings() != made.settings()
    assert generator(server, responses_a_request=2).settings() != made.settings()
