"""Gate: what every request passes before a route sees it: who asks, how much, and what is written down."""

import asyncio
import hmac
import json
import logging
import re
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.server.address import is_loopback
from serving.server.errors import RequestError, error_body, status_of
from serving.server.hall import Hall

logger = logging.getLogger("serving")

OPEN = frozenset({"/", "/page.css", "/page.js", "/health", "/ready", "/docs", "/openapi.json"})
"""Paths that need no key: whether the server is there, and pages without data, which browsers ask for without one."""

_REQUEST_ID = re.compile(r"[\w.-]{1,64}")


class Gate:
    """ASGI middleware around the whole application.

    It refuses wrong keys, hosts, content types and sizes, turns any failure into an answer without details, counts, and
    writes one line a request.

    Args:
        app: The application.
        hall: The rankers, with the settings.
    """

    def __init__(self, app: ASGIApp, hall: Hall) -> None:
        self._app, self._hall = app, hall
        self._key = hall.settings.api_key.encode() if hall.settings.api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {}).update(request_id=request_id, log={})
        answer = _Answer(send, request_id)
        started = time.perf_counter()
        self._hall.metrics.running.inc()
        try:
            self._check(scope["method"], scope["path"], headers)
            body = await self._read(headers, receive)
            await self._app(scope, _replay(body, receive), answer.send)
        except RequestError as error:
            await answer.refuse(scope["path"], error)
        except Exception:
            logger.exception("request failed", extra={"fields": {"event": "failure", "id": request_id}})
            await answer.refuse(scope["path"], RequestError(500, "the server failed; its log has the reason"))
        finally:
            self._hall.metrics.running.dec()
            self._note(scope, answer, request_id, time.perf_counter() - started)

    def _check(self, method: str, path: str, headers: dict[str, str]) -> None:
        if self._key is None:
            # Otherwise a page on any site could reach this server under a name that leads to this machine.
            host = re.sub(r":\d*$", "", headers.get("host", "localhost"))
            if not is_loopback(host.removeprefix("[").removesuffix("]")):
                raise RequestError(403, "without an API key only this machine is served, as localhost or 127.0.0.1")
        elif path not in OPEN:
            kind, _, key = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self._key):
                raise RequestError(401, "a valid API key is missing: send Authorization: Bearer KEY")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method in ("POST", "PUT", "PATCH") and kind != "application/json":
            raise RequestError(415, "the content type has to be application/json")

    async def _read(self, headers: dict[str, str], receive: Receive) -> bytes:
        """The body of a request, read whole, since no more of it than the limit may ever be in memory."""
        longest = self._hall.settings.max_body
        size = headers.get("content-length", "0")
        if not size.isdecimal() or int(size[:20]) > longest:
            raise RequestError(413, f"the request is larger than {longest:,} bytes")
        parts, length = [], 0
        try:
            async with asyncio.timeout(self._hall.settings.timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError(499, "the client left")  # nobody sees it
                    parts.append(message.get("body", b""))
                    length += len(parts[-1])
                    if length > longest:
                        raise RequestError(413, f"the request is larger than {longest:,} bytes")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise RequestError(408, "the request was not sent within the time limit") from None

    def _note(self, scope: Scope, answer: "_Answer", request_id: str, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._hall.metrics.request(route, answer.status, seconds)
        fields = {
            "event": "request",
            "id": request_id,
            "method": scope["method"],
            "route": route,
            "status": answer.status,
            "milliseconds": round(seconds * 1000, 1),
            **scope["state"]["log"],
        }
        logger.info("request", extra={"fields": fields})


class _Answer:
    """Sends an answer with the id of its request, and remembers its status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._id, self._has_begun = send, request_id, False
        self.status = 499

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self._has_begun = message["status"], True
            headers = [*message["headers"], (b"x-request-id", self._id.encode())]
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, path: str, error: RequestError) -> None:
        if self._has_begun:
            return
        status = status_of(path, error.status)
        body = json.dumps(error_body(path, status, error.message)).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that has been read already, then what comes after it."""
    given: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return given.pop() if given else await receive()

    return replayed
