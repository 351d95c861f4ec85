"""A judge behind a local server: patient, no faster than allowed, never asked twice, and never made to guess."""

import doctest
import hashlib
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from features.texts.prompts import RUBRIC, rubric
from features.texts.tasks import Task
from features.verification import answers
from features.verification.verdict import Verdict, Verifier
from features.verification.workers import build_verifier
from features.verifiers import judge
from language_models.asking.chat_endpoint import ChatEndpoint, RequestFailed
from language_models.asking.reply_cache import ReplyCache
from registry import ConfigError

Reply = tuple[int, Any]
REPOSITORY = Path(__file__).resolve().parents[3]


class Server(ThreadingHTTPServer):
    """Answers as each test says; remembers what it was asked, and when."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.retry_after, self.piece, self.pause, self.lacking = "0.2", 1 << 30, 0.0, 0
        self.lock = threading.Lock()
        self.reply: Callable[[dict[str, Any], int], Reply] = lambda body, number: (200, "score: 3")


def said(content: Any, **more: Any) -> Any:
    return {"choices": [{"message": {"role": "assistant", "content": content}, **more}]}


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append(body)
            server.keys.append(self.headers.get("Authorization"))
            number = len(server.asked)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            status, reply = server.reply(body, number)
        finally:
            with server.lock:
                server.at_once -= 1
        if isinstance(reply, str):
            reply = said(reply)
        content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", server.retry_after)
        self.send_header("Content-Length", str(len(content) + server.lacking))
        self.end_headers()
        for start in range(0, len(content), server.piece):
            self.wfile.write(content[start : start + server.piece])
            time.sleep(server.pause)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def make(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Verifier]:
    """A judge at the server; pauses between attempts are short."""
    monkeypatch.setattr("language_models.asking.chat_endpoint._LONGEST_PAUSE", 0.05)

    def build(**options: Any) -> Verifier:
        usual = {"name": "judge", "model": "m", "url": server.url, "cache": str(tmp_path / "cache" / "replies.sqlite")}
        return build_verifier({**usual, **options})

    return build


def judged(verifier: Verifier, responses: list[str], query: str = "Why?") -> list[Verdict]:
    return list(verifier.verify((Task(query, query, []), response) for response in responses))


def response_in(body: dict[str, Any]) -> str:
    content = body["messages"][0]["content"]
    return content.partition("<response>")[2].partition("<response>")[2].partition("</response>")[0]


def test_each_response_gets_the_score_of_its_own_in_order(server: Server, make: Callable[..., Verifier]) -> None:
    second = threading.Event()

    def reply(body: dict[str, Any], number: int) -> Reply:
        if number == 1:
            second.wait()  # so that two are there at once, however busy the machine is
        elif number == 2:
            second.set()
        time.sleep(0.02 * (number % 3))
        return 200, f"**Score:** {len(response_in(body))}\nBecause."

    server.reply = reply
    responses = ["x" * (place % 6) for place in range(30)]
    assert judged(make(parallel=4), responses) == [Verdict(float(len(response))) for response in responses]
    assert 1 < server.most_at_once <= 4


def test_what_is_sent_is_the_rubric_and_the_key_is_only_in_the_header(
    server: Server, make: Callable[..., Verifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    verifier = make(api_key_variable="MY_KEY", temperature=0.5)
    judged(verifier, ["Because."])
    assert server.keys == ["Bearer secret"]
    assert server.asked[0] == {
        "model": "m", "messages": rubric("Why?", "Because."), "max_tokens": 256, "temperature": 0.5
    }  # fmt: skip
    assert verifier.settings() == {
        "name": "judge", "model": "m", "url": server.url, "rubric": RUBRIC,
        "temperature": 0.5, "max_tokens": 256, "replies": 3,
    }  # fmt: skip


def test_replies_are_on_disk_and_equal_responses_are_judged_once(server: Server, make: Callable[..., Verifier]) -> None:
    server.reply = lambda body, number: (200, f"score: {number}")
    first = judged(make(), ["a", "b", "a", "a"])
    assert len(server.asked) == 2 and first[0] == first[2] == first[3] != first[1]
    assert judged(make(), ["a", "b", "a", "a"]) == first
    assert len(server.asked) == 2
    judged(make(model="other"), ["a"])
    judged(make(), ["a"], query="What?")
    assert len(server.asked) == 4


def test_a_reply_without_a_score_is_asked_for_again_and_then_missing(
    server: Server, make: Callable[..., Verifier]
) -> None:
    def reply(body: dict[str, Any], number: int) -> Reply:
        return 200, "Nice!" if response_in(body) == "b" or "seed" not in body else "score: 2"

    server.reply = reply
    assert judged(make(parallel=1), ["a", "b", "a"]) == [Verdict(2.0), Verdict(None, "no score: Nice!"), Verdict(2.0)]
    assert len(server.asked) == 2 + 3
    temperatures = [(body["temperature"], body.get("seed")) for body in server.asked if response_in(body) == "b"]
    assert temperatures == [(0.0, None), (0.5, 1), (0.5, 2)]
    assert judged(make(), ["b"]) == [Verdict(None, "no score: Nice!")]
    assert len(server.asked) == 5


@pytest.mark.parametrize("reply", [
    "score: 7", "score: -1", "score: \u22121", "It is a 4.", "score: 3 or rather score: 4", "", None, "score: five",
    "score: 1+1+1+0+0 = 3", "score: 1. Relevant (+1)\n2. Substantial (+1)\nTotal: 2", "score: 1. Relevant. Total: 4",
    "score: 4/10", "score: 4/50", "score: 4 out of 10", "score: 0.5/1", "score: 3-4", "score: 3 to 4", "score: 3,5",
    "score (0-5): 4", "score 5-point scale: 3", "The score: 5 points maximum. I give 3.", "score: <4",
    "score: 5 is not warranted; 2", "score: 2^2", "score = 0x4", "score: 4\u00bd", "score: .5", "score: 4, 3",
    "score: 4/10\nscore: 4", "score: 4\nThe score is 3.", '{"score": 3,5}', "<think>score: 1</think>",
    "<think>score: 1",
])  # fmt: skip
def test_nonsense_is_no_label(reply: str | None, server: Server, make: Callable[..., Verifier]) -> None:
    server.reply = lambda body, number: (200, said(reply))
    (verdict,) = judged(make(replies=2), ["a"])
    assert (verdict.label, verdict.reason.partition(":")[0], len(server.asked)) == (None, "no score", 2)


@pytest.mark.parametrize(("reply", "score"), [
    ("score: 4", 4), ("Score: 4/5", 4), ("score: <3>", 3), ("**score: 2**", 2), ("Good.\n\nscore:5", 5),
    ("score: 3.5", 3.5), ("score: 0 points. Repeats itself; hence score: 0", 0), ("score: 4.", 4),
    ("**Score:** 4\n", 4),
    ("Score: 4 out of 5.\nIt has 3 parts.", 4), ("Score: 1 point", 1), ("**Score**: **4**/5", 4), ("Score:\n4", 4),
    ('{"score": 4}', 4), ('{"score": "4", "reason": "It has 3 parts."}', 4), ('{\n  "score": 4.0\n}', 4),
    ("score: 4. Relevant.\nSo the score is 4.", 4), ("<think>score: 1</think>score: 4", 4), ('"score: 4"', 4),
])  # fmt: skip
def test_scores_are_read_as_models_write_them(reply: str, score: float) -> None:
    assert judge.score_of(reply) == score


@pytest.mark.parametrize(("reply", "label"), [
    ("score: 4", None), ("score: 4.", None), ("score: 4 ", None), ("score: 4\nIt is rel", 4.0),
])  # fmt: skip
def test_a_score_that_a_reply_was_cut_at_is_none(
    reply: str, label: float | None, server: Server, make: Callable[..., Verifier]
) -> None:
    server.reply = lambda body, number: (200, said(reply, finish_reason="length"))
    assert [judged(make(), ["a"])[0].label for _ in range(2)] == [label, label]
    assert len(server.asked) == (1 if label else 3)


@pytest.mark.parametrize("content", [
    "\ud83d score: 4", [{"type": "text", "text": "score"}, {"type": "text", "text": ": 4"}],
])  # fmt: skip
def test_texts_come_as_servers_write_them(content: Any, server: Server, make: Callable[..., Verifier]) -> None:
    server.reply = lambda body, number: (200, said(content))
    assert judged(make(), ["a"]) == judged(make(), ["a"]) == [Verdict(4.0)]


@pytest.mark.parametrize("reply", [
    {"choices": [None]}, {"choices": [{"message": "score: 4"}]}, {"choices": []}, {"choices": {"a": 1}}, said(4),
    said([{"type": "image_url"}]), b"[" * 200_000, b"<html>score: 4</html>", {"error": "no"}, [1],
])  # fmt: skip
def test_an_answer_without_a_reply_is_a_failed_request(
    reply: Any, server: Server, make: Callable[..., Verifier]
) -> None:
    server.reply = lambda body, number: (200, reply if response_in(body) == "b" else "score: 1")
    found = judged(make(attempts=2, parallel=1), ["a", "b", "c"])
    assert [verdict.label for verdict in found] == [1.0, None, 1.0]
    assert found[1].reason.startswith("an answer in another form: ") and len(found[1].reason) < 250
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_a_busy_or_failing_server_is_asked_again(status: int, server: Server, make: Callable[..., Verifier]) -> None:
    server.reply = lambda body, number: (status, {"error": "wait"}) if number <= 3 else (200, "score: 1")
    assert judged(make(), ["a"]) == [Verdict(1.0)]
    assert len(server.asked) == 4


class Clock(threading.local):
    """Stands for the module `time`: each thread has one of its own, which only waiting moves on.

    So it does not matter which thread the machine lets run, and when.
    """

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


class Waiting(threading.Event):
    """Is never set; waiting for it takes no time.

    Args:
        clock: What waiting moves on.
        until: Nobody gets past a wait before this is set.
    """

    def __init__(self, clock: Clock, until: threading.Event | None = None) -> None:
        super().__init__()
        self.clock, self.until = clock, until

    def wait(self, timeout: float | None = None) -> bool:
        if timeout and self.until:
            self.until.wait()
        self.clock.now += timeout or 0
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("language_models.asking.chat_endpoint.time", clock)
    return clock


def beginnings(endpoint: ChatEndpoint, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When each request is begun, from now on."""
    begun, post = [], endpoint._post
    monkeypatch.setattr(endpoint, "_post", lambda body: (begun.append(clock.now), post(body))[1])
    return begun


@pytest.mark.parametrize(("retry_after", "seconds"), [("1.5", 1.5), (formatdate(2, usegmt=True), 2.0)])
def test_a_server_that_says_how_long_to_wait_is_obeyed_by_all(
    retry_after: str, seconds: float, server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.retry_after = retry_after
    server.reply = lambda body, number: (429, {}) if number == 1 else (200, "score: 1")
    endpoint, paused = ChatEndpoint(server.url, requests_per_minute=600.0), threading.Event()
    begun, back_off = beginnings(endpoint, clock, monkeypatch), endpoint._back_off
    monkeypatch.setattr(endpoint, "_back_off", lambda *arguments: (back_off(*arguments), paused.set()))
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda _: endpoint.choices("m", [], Waiting(clock, paused)), range(4)))
    assert sorted(begun) == pytest.approx([0, *(seconds + 0.1 * place for place in range(4))])


def test_an_answer_that_drips_is_late(server: Server) -> None:
    server.piece, server.pause = 1, 0.1
    for status in (200, 503):
        server.reply = lambda body, number, status=status: (status, "score: 1" * 1000)
        with pytest.raises(RequestFailed) as caught:
            ChatEndpoint(server.url, timeout=0.5, attempts=1).choices("m", [])
        assert caught.value.gone


def test_an_answer_that_breaks_off_is_none(server: Server) -> None:
    server.lacking = 1
    with pytest.raises(RequestFailed, match="1 more expected") as caught:
        ChatEndpoint(server.url, attempts=1).choices("m", [])
    assert caught.value.gone


def test_a_server_that_asks_for_no_pause_gets_the_usual_one(
    server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.retry_after = "0"
    server.reply = lambda body, number: (429, {}) if number == 1 else (200, "score: 1")
    endpoint = ChatEndpoint(server.url, pause=0.4)
    begun = beginnings(endpoint, clock, monkeypatch)
    endpoint.choices("m", [], Waiting(clock))
    assert begun[0] == 0 and 0.3 <= begun[1] <= 0.5


@pytest.mark.parametrize(("told", "finish"), [("stop", "stop"), (None, None), (3, None), (["stop"], None)])
def test_why_a_text_ended_is_a_word_or_not_known(told: Any, finish: str | None, server: Server) -> None:
    server.reply = lambda body, number: (200, said("a", finish_reason=told))
    assert ChatEndpoint(server.url).choices("m", []) == [("a", finish, None, None)]


def test_an_answer_without_end_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("language_models.asking.chat_endpoint._LONGEST_ANSWER", 1000)
    server.reply = lambda body, number: (200, "x" * 1000)
    with pytest.raises(RequestFailed, match="an answer of more than 1000 bytes"):
        ChatEndpoint(server.url, attempts=1).choices("m", [])


def test_a_request_that_is_refused_costs_one_label(server: Server, make: Callable[..., Verifier]) -> None:
    told = {"error": {"message": "the context is too  long"}}
    server.reply = lambda body, number: (400, told) if response_in(body) == "b" else (200, "score: 1")
    assert judged(make(), ["a", "b", "c"]) == [
        Verdict(1.0), Verdict(None, "HTTP 400: the context is too long"), Verdict(1.0)
    ]  # fmt: skip


def test_an_answer_in_another_form_costs_one_label(server: Server, make: Callable[..., Verifier]) -> None:
    server.reply = lambda body, number: (200, {"hello": 1}) if response_in(body) == "b" else (200, "score: 1")
    found = judged(make(attempts=2), ["a", "b"])
    assert found == [Verdict(1.0), Verdict(None, 'an answer in another form: {"hello": 1}')]
    assert len(server.asked) == 3


def test_a_failure_is_not_kept_so_the_next_run_asks_again(server: Server, make: Callable[..., Verifier]) -> None:
    server.reply = lambda body, number: (500, {})
    assert judged(make(attempts=2), ["a"])[0].label is None
    server.reply = lambda body, number: (200, "score: 1")
    assert judged(make(attempts=2), ["a"]) == [Verdict(1.0)]


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (401, "refuses the key"),
        (402, "wants to be paid"),
        (403, "refuses access"),
        (404, "does not have this address or model"),
    ],
)
def test_a_wrong_key_or_model_stops_the_run(
    status: int, problem: str, server: Server, make: Callable[..., Verifier]
) -> None:
    server.reply = lambda body, number: (status, {"error": {"message": "no"}})
    with pytest.raises(ConfigError, match=f"the server {problem} \\(HTTP {status}: no\\)"):
        judged(make(), ["a", "b", "c"])


def test_a_server_that_is_gone_stops_the_run_rather_than_all_labels(
    server: Server, make: Callable[..., Verifier]
) -> None:
    server.reply = lambda body, number: (200, "score: 1") if number <= 20 else (503, {"error": "gone"})
    labels = []
    responses = ((Task("q", "q", []), str(place)) for place in itertools.count())
    with pytest.raises(ConfigError, match="does not answer any more"):
        labels.extend(verdict.label for verdict in make(attempts=2, parallel=1).verify(responses))
    assert len(server.asked) < 100


@pytest.mark.parametrize("reply", [(400, {"error": {"message": "no such option"}}), (200, {"error": "no such option"})])
def test_a_server_that_refuses_everything_stops_the_run(
    reply: Reply, server: Server, make: Callable[..., Verifier]
) -> None:
    server.reply = lambda body, number: reply
    with pytest.raises(ConfigError, match=r"refuses every request .*no such option"):
        judged(make(attempts=1), [str(place) for place in range(12)])


@pytest.mark.parametrize("status", [400, 403, 404])
def test_refusals_do_not_stop_a_run_that_has_had_an_answer(
    status: int, server: Server, make: Callable[..., Verifier]
) -> None:
    server.reply = lambda body, number: (status, {"error": "moderated"}) if number > 1 else (200, "score: 1")
    responses = [str(place) for place in range(15)]
    expected = [Verdict(1.0), *[Verdict(None, f"HTTP {status}: moderated")] * 14]
    assert judged(make(parallel=1), responses) == expected
    assert judged(make(parallel=1), responses) == expected


def test_a_key_that_is_refused_later_stops_the_run(server: Server, make: Callable[..., Verifier]) -> None:
    server.reply = lambda body, number: (402, {"error": "no credit"}) if number > 1 else (200, "score: 1")
    with pytest.raises(ConfigError, match="wants to be paid"):
        judged(make(parallel=1), ["a", "b"])


def test_equal_responses_fail_once(server: Server, make: Callable[..., Verifier]) -> None:
    server.reply = lambda body, number: (500, {}) if response_in(body) == "b" else (200, "score: 1")
    found = judged(make(attempts=1), ["a", *["b"] * 12, "c"])
    assert [verdict.label for verdict in found] == [1.0, *[None] * 12, 1.0]


@pytest.mark.parametrize("message", [None, 5, "\ud83d"])
def test_the_text_of_a_refusal_is_shown(message: Any, server: Server, make: Callable[..., Verifier]) -> None:
    server.reply = lambda body, number: (400, {"error": {"message": message}})
    (verdict,) = judged(make(), ["a"])
    assert verdict.reason.encode().startswith(b"HTTP 400: ")


def test_a_missing_server_is_an_error(make: Callable[..., Verifier]) -> None:
    verifier = make(url="http://127.0.0.1:1/v1", attempts=1)
    with pytest.raises(ConfigError, match="v1: does not answer any more"):
        judged(verifier, [str(place) for place in range(20)])
    assert judged(verifier, ["a"])[0].label is None


def test_a_late_answer_is_asked_for_again(server: Server, make: Callable[..., Verifier]) -> None:
    second = threading.Event()

    def reply(body: dict[str, Any], number: int) -> Reply:
        if number == 1:
            second.wait()
        else:
            second.set()
        return 200, "score: 1"

    server.reply = reply
    assert judged(make(timeout=1.0), ["a"]) == [Verdict(1.0)]


def test_requests_are_begun_no_faster_than_allowed(
    server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = ChatEndpoint(server.url, requests_per_minute=1200.0)
    begun = beginnings(endpoint, clock, monkeypatch)
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda _: endpoint.choices("m", [], Waiting(clock)), range(8)))
    assert sorted(begun) == pytest.approx([0.05 * place for place in range(8)])


def test_responses_are_read_only_a_few_ahead(make: Callable[..., Verifier]) -> None:
    read = itertools.count()
    found = make(parallel=2).verify((Task("q", "q", []), str(place)) for place in read)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert next(read) <= 6


def test_a_judge_that_was_killed_goes_on_where_it_was(
    server: Server, make: Callable[..., Verifier], tmp_path: Path
) -> None:
    server.reply = lambda body, number: (time.sleep(0.02), (200, f"score: {number % 6}"))[1]  # type: ignore[func-returns-value]
    cache = tmp_path / "cache" / "replies.sqlite"
    script = (
        "from features.texts.tasks import Task; from features.verification.workers import build_verifier\n"
        f"judge = build_verifier({{'name': 'judge', 'model': 'm', 'url': {server.url!r}, 'cache': {str(cache)!r}}})\n"
        "list(judge.verify((Task('Why?', 'Why?', []), str(n)) for n in range(100)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    killed = subprocess.Popen([sys.executable, "-c", script], env=environment)
    while len(server.asked) < 30:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = len(server.asked)
    found = judged(make(), [str(place) for place in range(100)])
    assert all(verdict.label is not None for verdict in found)
    assert len(server.asked) - before <= 100 - before + 16
    assert judged(make(), [str(place) for place in range(100)]) == found


def test_what_is_on_disk_may_be_used_by_several(tmp_path: Path) -> None:
    one, other = (ReplyCache(tmp_path / "replies.sqlite") for _ in range(2))
    assert one.put({"a": 1}, "first") == other.put({"a": 1}, "second") == other.get({"a": 1}) == "first"
    assert one.get({"a": 2}) is None
    one.close()
    other.close()


@pytest.mark.parametrize("damaged", ["'scord: 1'", "CAST(x'ff' AS TEXT)"])
def test_a_damaged_reply_is_as_good_as_none(damaged: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ReplyCache(tmp_path / "replies.sqlite")
    for each in "ab":
        cache.put({each: 1}, "score: 1")
    cache._database._connection.execute(f"UPDATE replies SET reply = {damaged}")
    assert [cache.get({each: 1}) for each in "ab"] == [None, None]
    assert capsys.readouterr().err.count("replies.sqlite are damaged; these requests are sent again.") == 1
    assert cache.put({"a": 1}, "score: 2") == "score: 2" == cache.get({"a": 1})


def test_a_cache_of_an_older_version_keeps_its_replies(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "replies.sqlite") as database:
        database.execute("CREATE TABLE replies (request TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        request = hashlib.sha256(json.dumps({"a": 1}).encode()).hexdigest()
        database.execute("INSERT INTO replies VALUES (?, ?)", (request, "score: 1"))
    cache = ReplyCache(tmp_path / "replies.sqlite")
    assert cache.get({"a": 1}) == "score: 1"
    assert cache.put({"b": 1}, "score: 2") == "score: 2"
    assert ReplyCache(tmp_path / "replies.sqlite").get({"b": 1}) == "score: 2"


def test_a_cache_that_is_something_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "replies.sqlite").write_text("something else, and long enough to be told from an empty file\n" * 100)
    with pytest.raises(ConfigError, match=r"replies.sqlite: cannot be opened \(file is not a database\)"):
        ReplyCache(tmp_path / "replies.sqlite")


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "replies.sqlite")
    cache._database._connection.execute("PRAGMA max_page_count = 3")
    with pytest.raises(ConfigError, match=r"cannot be written \(database or disk is full\)") as caught:
        cache.put({"a": 1}, "x" * 100_000)
    assert "make room" in str(caught.value)
    cache.close()


def test_a_cache_that_cannot_be_read_or_written_is_an_error(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "replies.sqlite")
    cache._database._connection.execute("DROP TABLE replies")
    with pytest.raises(ConfigError, match=r"replies.sqlite: cannot be read \(no such table: replies\)"):
        cache.get({"a": 1})
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        cache.put({"a": 1}, "x")
    assert "room" not in str(caught.value)
    cache.close()


def test_a_stop_ends_waiting(server: Server) -> None:
    stop = threading.Event()
    server.reply = lambda body, number: (stop.set(), (503, {}))[1]
    with pytest.raises(RequestFailed):
        ChatEndpoint(server.url, pause=30.0).choices("m", [], stop)
    assert len(server.asked) == 1


@pytest.mark.parametrize(("options", "problem"), [
    ({"parallel": 0}, "parallel: expected int from 1 to 1,000, got 0"),
    ({"rubric": "Is this good? {response}"}, "must contain {query}"),
    ({"rubric": "{response} {query}"}, "must contain {query}"),
    ({"api_key_variable": "A_VARIABLE_NOBODY_HAS"}, "the environment variable A_VARIABLE_NOBODY_HAS is not set"),
])  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, Any], problem: str, make: Callable[..., Verifier]) -> None:
    with pytest.raises(ConfigError, match=problem):
        make(**options)


def test_a_key_is_taken_without_the_space_around_it(
    server: Server, make: Callable[..., Verifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", " secret\r\n")
    assert judged(make(api_key_variable="MY_KEY"), ["a"]) == [Verdict(3.0)]
    assert server.keys == ["Bearer secret"]


@pytest.mark.parametrize("key", ["sk-secret\rmore", "sk-secret\u2026", "sk-secret\x7f"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(
    key: str, make: Callable[..., Verifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ConfigError, match="MY_KEY holds more than printable ASCII") as caught:
        make(api_key_variable="MY_KEY")
    assert "secret" not in str(caught.value)


def test_the_examples_in_the_documentation_hold() -> None:
    for module in (judge, answers):
        assert doctest.testmod(module).attempted > 0 and doctest.testmod(module).failed == 0
