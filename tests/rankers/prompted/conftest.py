"""A server that answers as each test says, in the form of OpenAI's chat completions."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Server(ThreadingHTTPServer):
    """Remembers what it was asked; `say` gives the answer to messages, or an HTTP status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.asked: list[dict[str, Any]] = []
        self.say: Callable[[list[dict[str, str]]], str | int] = by_value
        self.lock = threading.Lock()

    @property
    def generator(self) -> dict[str, Any]:
        """The yaml node of a generator that asks this server."""
        return {"name": "openai_compatible", "model": "stub", "url": self.url, "attempts": 1}


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
        said = self.server.say(body["messages"])
        usage = {"prompt_tokens": 10, "completion_tokens": 2}
        reply: Any = {"choices": [{"message": {"content": said}}], "usage": usage}
        if isinstance(said, int):
            reply = {"error": {"message": "no"}}
        self.send_response(said if isinstance(said, int) else 200)
        content = json.dumps(reply).encode()
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *given: Any) -> None:
        pass


def by_value(messages: list[dict[str, str]]) -> str:
    """A perfect model: the best candidate is the one with the highest value in its text."""
    text = "\n".join(message["content"] for message in messages)
    if "Passage A" in text:
        a, b = (int(value) for value in re.findall(r"Passage [AB]: value (\d+)", text))
        return "Passage A" if a > b else "Passage B"
    values = {int(number): int(value) for number, value in re.findall(r"\[(\d+)\] value (\d+)", text)}
    if "RankGPT" in text:
        return " > ".join(f"[{number}]" for number in sorted(values, key=values.__getitem__, reverse=True))
    return f"<think>the lowest</think><answer>[{min(values, key=values.__getitem__)}]</answer>"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
