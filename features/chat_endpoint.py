"""ChatEndpoint: a server that speaks OpenAI's chat completions, asked patiently and no faster than allowed."""

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from features.problems import Message
from registry import ConfigError

_REFUSED = {401: "refuses the key", 403: "refuses the key", 404: "does not have this address or model"}
_RETRIED = {408, 409, 425, 429}
_LONGEST_PAUSE = 60.0


class RequestFailed(Exception):
    """What became of a request that got no answer.

    Args:
        reason: A few words.
        gone: Whether the server did not manage to answer in all its attempts, rather than refuse.
    """

    def __init__(self, reason: str, gone: bool) -> None:
        super().__init__(reason)
        self.reason, self.gone = reason, gone


class Choice(NamedTuple):
    """A text that the model gave, and why it ended, such as `stop` or `length`, if the server says so."""

    text: str
    finish: str | None


@dataclass
class ChatEndpoint:
    """A server.

    Args:
        url: Its base address, such as `http://localhost:8000/v1`.
        api_key: Sent as a bearer token; None sends none.
        timeout: Seconds to wait for an answer.
        attempts: How often a request is made in all where the server is busy, fails or does not answer in time.
        pause: Seconds before the second attempt; each later one waits twice as long, give or take a quarter.
        requests_per_minute: How many are begun at most; None for no limit.
    """

    url: str
    api_key: str | None = None
    timeout: float = 120.0
    attempts: int = 6
    pause: float = 1.0
    requests_per_minute: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _next: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.attempts < 1 or (self.requests_per_minute is not None and self.requests_per_minute <= 0):
            raise ValueError("attempts must be at least 1, requests_per_minute above 0 (null for no limit)")

    def complete(
        self, model: str, messages: Sequence[Message], stop: threading.Event | None = None, **options: Any
    ) -> str:
        """What the model says; several threads may ask at a time.

        Args:
            model: Its name on the server.
            messages: What it is given.
            stop: Once set, nothing is waited for any more.
            options: Of the request, such as `temperature`.

        Raises:
            RequestFailed: If the request is refused, or there is no answer after all attempts.
            ConfigError: If the server refuses the key, or has no such address or model.
        """
        return self.choices(model, messages, stop, **options)[0].text

    def choices(
        self, model: str, messages: Sequence[Message], stop: threading.Event | None = None, /, **options: Any
    ) -> list[Choice]:
        """All that the model says to one request, where `n` asks for more than one; else as `complete`."""
        body = json.dumps({"model": model, "messages": list(messages), **options}).encode()
        stop, failed = stop or threading.Event(), RequestFailed("not asked", gone=False)
        for attempt in range(1, self.attempts + 1):
            self._wait_for_turn(stop)
            try:
                return _choices(self._post(body))
            except urllib.error.HTTPError as error:
                asked = _seconds(error.headers.get("Retry-After"))
                failed = self._refused(error)
            except ValueError as error:
                asked, failed = None, RequestFailed(str(error), gone=False)
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", None) or error) or type(error).__name__
                asked, failed = None, RequestFailed(reason, gone=True)
            if attempt < self.attempts:
                self._back_off(attempt, asked, stop)
        raise failed

    def _refused(self, error: urllib.error.HTTPError) -> RequestFailed:
        """The failure, where another attempt makes sense; else it is raised."""
        told = _told(error)
        if error.code in _REFUSED:
            problem = f"the server {_REFUSED[error.code]} (HTTP {error.code}: {told})."
            raise ConfigError(self.url, problem, cure="check url, model and the key's variable") from error
        if error.code < 500 and error.code not in _RETRIED:
            raise RequestFailed(f"HTTP {error.code}: {told}", gone=False) from error
        return RequestFailed(f"HTTP {error.code}: {told}", gone=True)

    def _post(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json", "User-Agent": "rankers"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            return json.load(response)

    def _wait_for_turn(self, stop: threading.Event) -> None:
        with self._lock:
            now = time.monotonic()
            turn = max(self._next, now)
            self._next = turn + (60 / self.requests_per_minute if self.requests_per_minute else 0)
        if stop.wait(turn - now):
            raise RequestFailed("stopped", gone=False)

    def _back_off(self, attempt: int, asked: float | None, stop: threading.Event) -> None:
        """Wait; where the server says for how long, nobody else begins a request meanwhile."""
        if asked is None:
            stop.wait(min(self.pause * 2 ** (attempt - 1), _LONGEST_PAUSE) * random.uniform(0.75, 1.25))
            return
        with self._lock:
            self._next = max(self._next, time.monotonic() + min(asked, _LONGEST_PAUSE))


def key_of(variable: str | None) -> str | None:
    """The key in an environment variable, None for no variable.

    Raises:
        ConfigError: If the variable is not set.
    """
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        cure = f"export {variable}=...; or api_key_variable=null for a server that wants none"
        raise ConfigError("features", f"the environment variable {variable} is not set.", cure=cure)
    return key


def _choices(reply: Any) -> list[Choice]:
    match reply:
        case {"choices": [_, *_] as choices} if all(isinstance(each.get("message"), Mapping) for each in choices):
            return [Choice(each["message"].get("content") or "", each.get("finish_reason")) for each in choices]
    raise ValueError(f"an answer in another form: {json.dumps(reply)[:200]}")


def _told(error: urllib.error.HTTPError) -> str:
    """What the server says of its refusal."""
    try:
        text = error.read(2000).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        text = ""
    finally:
        error.close()
    try:
        told = json.loads(text)["error"]
        text = told["message"] if isinstance(told, dict) else str(told)
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(text.split())[:200] or str(error.reason)


def _seconds(value: str | None) -> float | None:
    try:
        return max(float(value), 0.0) if value else None
    except ValueError:
        return None
