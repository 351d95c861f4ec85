"""Real servers, killed: what they have acknowledged is in the database, and others go on."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from serving.feedback.database import FeedbackDatabase

DOCUMENTS = ["open the file", "sort a list", "return the value of a key"]


class Server(NamedTuple):
    """A server's address and its process."""

    url: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=60)


@contextmanager
def started(folder: Path, *options: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "serving", str(folder), "--port", "0", *options]
    with (folder.parent / "log").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=dict(os.environ))
        guard = threading.Timer(240, process.kill)
        guard.start()
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith("Ready: "), (folder.parent / "log").read_text()
            yield Server(ready.split()[1], process)
        finally:
            guard.cancel()
            process.kill()
            process.communicate()


def give_until_killed(server: Server, users: list[str], least: int) -> dict[str, int]:
    """Kill a server while users give feedback, once each has `least` pieces acknowledged; how many each has then."""
    acknowledged = dict.fromkeys(users, 0)

    def give(user: str) -> None:
        body = {"user": user, "query": "sort", "candidates": DOCUMENTS, "picked": 1}
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while True:
                try:
                    answer = client.post("/v1/feedback", json=body)
                except httpx.HTTPError:  # the server is gone
                    return
                assert answer.status_code == 200, answer.text
                assert answer.json()["feedback"] == acknowledged[user] + 1
                acknowledged[user] += 1

    threads = [threading.Thread(target=give, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    while min(acknowledged.values()) < least and all(thread.is_alive() for thread in threads):
        time.sleep(0.001)
    server.kill()
    for thread in threads:
        thread.join(60)
    assert min(acknowledged.values()) >= least
    return acknowledged


@pytest.mark.slow
def test_a_server_killed_while_it_takes_feedback_has_lost_none_that_it_acknowledged(folder: Path) -> None:
    with started(folder, "--learn-after", "1000") as server:
        acknowledged = give_until_killed(server, ["ana", "ben", "eva"], least=10)
    database = FeedbackDatabase(folder / "feedback.sqlite")
    for user, count in acknowledged.items():
        # What was being answered when the server died may be there too.
        assert [number for number, _ in database.feedback("tiny", user, 10_000)][:count] == list(range(1, count + 1))
        assert database.describe(user, {})[0]["feedback"] in (count, count + 1)


@pytest.mark.slow
def test_of_two_servers_on_one_database_one_is_killed_and_the_other_has_everything(folder: Path, postgres: str) -> None:
    options = ["--database", postgres, "--learn-every", "1"]
    with ExitStack() as stack:
        one, other = (stack.enter_context(started(folder, *options)) for _ in range(2))

        def version(server: Server) -> int:
            body = {"query": "sort", "documents": DOCUMENTS, "user": "eve"}
            return httpx.post(f"{server.url}/v1/rerank", json=body, timeout=60).json()["meta"]["personal"]["version"]

        for place in range(5):
            body = {"user": "eve", "query": f"sort {place}", "candidates": DOCUMENTS, "picked": 1}
            httpx.post(f"{(one, other)[place % 2].url}/v1/feedback", json=body, timeout=60).raise_for_status()
        until = time.monotonic() + 120
        while version(one) != 1 and time.monotonic() < until:
            time.sleep(0.2)
        assert version(one) == version(other) == 1
        acknowledged = give_until_killed(one, ["ana", "ben"], least=10)
        for user, count in acknowledged.items():
            (found,) = httpx.get(f"{other.url}/v1/users/{user}", timeout=60).json()["rankers"]
            assert found["feedback"] in (count, count + 1)
        # The other server trains what the killed one has left, once its lease has ended.
        until = time.monotonic() + 150
        while time.monotonic() < until:
            found = httpx.get(f"{other.url}/v1/users/ana", timeout=60).json()["rankers"][0]
            if found["feedback"] - found["learnt"] < 5:
                break
            time.sleep(1)
        assert found["feedback"] - found["learnt"] < 5
