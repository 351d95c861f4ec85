"""ChatEndpoint: a server that speaks OpenAI's chat completions, asked patiently and no faster than allowed.

The client of OpenAI (openai 3.57) was tried: its timeout is for each read, so an answer that drips in is never late, it
keeps an answer of any size in memory and gives answers in another form as they are. To mend that takes as much code as
to ask without it.
"""

import http.client
import json
import os
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NamedTuple

from language_models.chat_template import Message
from ranking.texts import encodable
from registry import ConfigError

_FATAL = {401: "refuses the key", 402: "wants to be paid"}
# A server that has answered means the one request by these, such as an input that it moderates.
_FATAL_AT_FIRST = {403: "refuses access", 404: "does not have this address or model"}
_RETRIED = {408, 409, 425, 429}
_LONGEST_PAUSE = 60.0
_LONGEST_ANSWER = 1 << 26
_LONGEST_REFUSAL = 2000
_PIECE = 1 << 16
_MOST_TOLD = 200
_LOOK = 0.2
"""Seconds between two looks at whether a request is still wanted."""


class RequestFailed(Exception):
    """What became of a request that got no answer.

    Args:
        kind: A few words, of which the server wrote none.
        gone: Whether the server did not manage to answer in all its attempts, rather than refuse.
        status: The HTTP status that the server answered with; None if it did not answer, or in another form.
        told: What the server wrote, which may repeat what it was sent.
    """

    def __init__(self, kind: str, gone: bool, status: int | None = None, told: str = "") -> None:
        self.reason = f"{kind}: {told}" if told else kind
        super().__init__(self.reason)
        self.kind, self.gone, self.status, self.told = kind, gone, status, told


class _OtherFormError(ValueError):
    """An answer that is not in the form of chat completions."""


class Choice(NamedTuple):
    """A text that the model gave, and why it ended, such as `stop` or `length`, if the server says so.

    The numbers of tokens that it read and wrote are those of the whole request; None if the server does not say.
    """

    text: str
    finish: str | None
    prompt_tokens: int | None = None
    new_tokens: int | None = None


@dataclass
class ChatEndpoint:
    """A server.

    Args:
        url: Its base address, such as `http://localhost:8000/v1`.
        api_key: Sent as a bearer token; None sends none.
        timeout: Seconds to wait for an answer, all of it.
        attempts: How often a request is made in all where the server is busy, fails or does not answer in time.
        pause: Seconds before the second attempt; each later one waits twice as long, give or take a quarter.
        requests_per_minute: How many are begun at most; None for no limit.

    Attributes:
        answered: Whether any request has been answered.
    """

    url: str
    api_key: str | None = None
    timeout: float = 120.0
    attempts: int = 6
    pause: float = 1.0
    requests_per_minute: float | None = None
    answered: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _next: float = field(default=0.0, init=False)

    def choices(
        self, model: str, messages: Sequence[Message], stop: threading.Event | None = None, /, **options: Any
    ) -> list[Choice]:
        """What the model says, once or as often as `n` asks for; several threads may ask at a time.

        Args:
            model: Its name on the server.
            messages: What it is given.
            stop: Once set, nothing is waited for any more: the connection is closed, which tells the server.
            options: Of the request, such as `temperature`.

        Raises:
            RequestFailed: If the request is refused, or there is no answer after all attempts.
            ConfigError: If the server refuses the key or wants to be paid, or has answered nothing yet and refuses
                access, or has no such address or model.
        """
        body = json.dumps({"model": model, "messages": list(messages), **options}).encode()
        stop, failed = stop or threading.Event(), RequestFailed("not asked", gone=False)
        for attempt in range(1, self.attempts + 1):
            self._wait_for_turn(stop)
            try:
                with _broken_off_by(stop):
                    try:
                        choices = _choices(self._post(body))
                    except urllib.error.HTTPError as error:  # whose body is still to be read
                        asked, failed = _seconds(error.headers.get("Retry-After")), self._refused(error)
                    else:
                        self.answered = True
                        return choices
            except _OtherFormError as error:
                asked, failed = None, RequestFailed("an answer in another form", gone=False, told=str(error))
            except ValueError as error:
                asked, failed = None, RequestFailed(str(error), gone=False)
            except OSError as error:
                kind = str(getattr(error, "reason", None) or error) or type(error).__name__
                asked, failed = None, RequestFailed(kind, gone=True)
            except http.client.IncompleteRead as error:
                asked, failed = None, RequestFailed(str(error), gone=True)
            except http.client.HTTPException as error:
                asked, failed = None, RequestFailed(type(error).__name__, gone=True, told=str(error))
            if stop.is_set():
                raise RequestFailed("stopped", gone=False)
            if attempt < self.attempts:
                self._back_off(attempt, asked, stop)
        raise failed

    def _refused(self, error: urllib.error.HTTPError) -> RequestFailed:
        """The failure, where another attempt makes sense; else it is raised."""
        told = _told(error, self.timeout)
        fatal = _FATAL if self.answered else _FATAL | _FATAL_AT_FIRST
        if error.code in fatal:
            problem = f"the server {fatal[error.code]} (HTTP {error.code}: {told})."
            raise ConfigError(self.url, problem, cure="check url, model and the key's variable") from error
        if error.code < 500 and error.code not in _RETRIED:
            raise RequestFailed(f"HTTP {error.code}", gone=False, status=error.code, told=told) from error
        return RequestFailed(f"HTTP {error.code}", gone=True, status=error.code, told=told)

    def _post(self, body: bytes) -> bytes:
        deadline = time.monotonic() + self.timeout
        headers = {"Content-Type": "application/json", "User-Agent": "rankers"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        with _opener().open(request, timeout=self.timeout) as response:
            content = _read(response, deadline, _LONGEST_ANSWER + 1)
        if len(content) > _LONGEST_ANSWER:
            raise ValueError(f"an answer of more than {_LONGEST_ANSWER} bytes")
        return content

    def _wait_for_turn(self, stop: threading.Event) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                left = self._next - now
                if left <= 0:
                    self._next = now + (60 / self.requests_per_minute if self.requests_per_minute else 0)
            if stop.wait(max(left, 0)):
                raise RequestFailed("stopped", gone=False)
            if left <= 0:
                return

    def _back_off(self, attempt: int, asked: float | None, stop: threading.Event) -> None:
        """Wait; where the server says for how long, nobody else begins a request meanwhile."""
        if not asked:
            stop.wait(min(self.pause * 2 ** (attempt - 1), _LONGEST_PAUSE) * random.uniform(0.75, 1.25))
            return
        with self._lock:
            self._next = max(self._next, time.monotonic() + min(asked, _LONGEST_PAUSE))


_OPENED = threading.local()
"""The sockets that a thread has opened for its request, which another thread may have to shut down."""


def _noting(connection_class: Any) -> Any:
    """A class of connections that note their sockets."""

    def make(*arguments: Any, **options: Any) -> Any:
        connection = connection_class(*arguments, **options)
        connect = connection.connect

        def noted() -> None:
            connect()
            _OPENED.sockets.append(connection.sock)

        connection.connect = noted
        return connection

    return make


class _Http(urllib.request.HTTPHandler):
    def do_open(self, http_class: Any, req: Any, **options: Any) -> Any:
        return super().do_open(_noting(http_class), req, **options)


class _Https(urllib.request.HTTPSHandler):
    def do_open(self, http_class: Any, req: Any, **options: Any) -> Any:
        return super().do_open(_noting(http_class), req, **options)


@cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Http, _Https)


@contextmanager
def _broken_off_by(stop: threading.Event) -> Iterator[None]:
    """Shut down the connections of this thread's request once `stop` is set, so that it waits no longer."""
    sockets: list[socket.socket] = []
    _OPENED.sockets, done = sockets, threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK):
            for each in list(sockets) if stop.is_set() else ():
                # A copy of the descriptor, because the request's own thread may close it at this moment.
                with suppress(OSError), socket.socket(fileno=os.dup(each.fileno())) as copy:
                    copy.shutdown(socket.SHUT_RDWR)

    watching = threading.Thread(target=watch, name="stop", daemon=True)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()


def key_of(variable: str | None) -> str | None:
    """The key in an environment variable, None for no variable.

    Raises:
        ConfigError: If the variable is not set, or holds what no key can.
    """
    if variable is None:
        return None
    cure = f"export {variable}=...; or api_key_variable=null for a server that wants none"
    if not (key := os.environ.get(variable, "").strip()):
        raise ConfigError("features", f"the environment variable {variable} is not set.", cure=cure)
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            "features", f"the environment variable {variable} holds more than printable ASCII.", cure=cure
        )
    return key


def shortened(text: str) -> str:
    """The beginning of a text, on one line."""
    return " ".join(text.split())[:_MOST_TOLD]


def _read(response: Any, deadline: float, most: int) -> bytes:
    """The body of a response, or its first bytes."""
    content = bytearray()
    while len(content) < most and (piece := response.read1(min(_PIECE, most - len(content)))):
        content += piece
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    if len(content) < most and response.length:
        raise http.client.IncompleteRead(bytes(content), response.length)
    return bytes(content)


def _choices(content: bytes) -> list[Choice]:
    try:
        match json.loads(content):
            case {"choices": [_, *_] as choices}:
                return [_choice(each)._replace(**_usage(content)) for each in choices]
            case _:
                raise ValueError("no choices")
    except (ValueError, RecursionError) as error:
        raise _OtherFormError(shortened(content.decode(errors="replace"))) from error


def _usage(content: bytes) -> dict[str, int | None]:
    """The numbers of tokens, where the server gives whole numbers."""
    usage = json.loads(content).get("usage")
    usage = usage if isinstance(usage, dict) else {}
    found = {"prompt_tokens": usage.get("prompt_tokens"), "new_tokens": usage.get("completion_tokens")}
    return {name: value if type(value) is int and value >= 0 else None for name, value in found.items()}


def _choice(choice: Any) -> Choice:
    match choice:
        case {"message": {**message}}:
            finish = choice.get("finish_reason")
            return Choice(_text(message.get("content")), finish if isinstance(finish, str) else None)
    raise ValueError("a choice without a message")


def _text(content: Any) -> str:
    """What a message says, in one text or in parts."""
    match content:
        case None:
            return ""
        case str():
            return encodable(content)
        case {"type": "text", "text": text}:
            return _text(text)
        case [*parts]:
            return "".join(map(_text, parts))
    raise ValueError("a message that is no text")


def _told(error: urllib.error.HTTPError, timeout: float) -> str:
    """What the server says of its refusal."""
    try:
        text = _read(error, time.monotonic() + timeout, _LONGEST_REFUSAL).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        text = ""
    finally:
        error.close()
    try:
        told = json.loads(text)["error"]
        text = str(told["message"] if isinstance(told, dict) else told)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return shortened(encodable(text)) or str(error.reason)


def _seconds(value: str | None) -> float | None:
    """How long a server asks to be left alone: a number of seconds, or a date."""
    if not value:
        return None
    with suppress(ValueError):
        return max(float(value), 0.0)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None
