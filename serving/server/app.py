"""The application: every route of a server, around the rankers of a hall."""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from serving.server.errors import RequestError, error_body, status_of
from serving.server.gate import Gate
from serving.server.hall import Hall
from serving.server.routes import chat, docs, feedback, health, models, page, rerank, route, search, tei, users

_FIELD = re.compile("[a-z_]+|[0-9]+")

ROUTERS: Sequence[APIRouter] = (
    rerank.router,
    tei.router,
    chat.router,
    search.router,
    route.router,
    feedback.router,
    users.router,
    models.router,
    health.router,
    page.router,
    docs.router,
)


def create_app(hall: Hall, load: Callable[[FastAPI], AsyncIterator[None]] | None = None) -> FastAPI:
    """The application that serves the rankers of a hall.

    Args:
        hall: The rankers; routes find it as `request.app.state.hall`.
        load: What goes on beside the application, such as loading the rankers: code before `yield` runs at the start,
            code after it when the server has answered its last request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with asynccontextmanager(load or _nothing)(app):
                yield
        finally:
            await hall.close()

    app = FastAPI(
        title="rankers",
        version=version("rankers"),
        description="Trained rankers: rerank documents, answer chats, search pools, choose language models.",
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        middleware=[Middleware(Gate, hall=hall)],
    )
    app.state.hall = hall
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _unknown)
    return app


async def _nothing(app: FastAPI) -> AsyncIterator[None]:
    yield


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _answer(request, error.status, error.message, error.headers)


async def _malformed(request: Request, error: Exception) -> Response:
    """A body that is no JSON is a bad request; one whose fields are wrong is unprocessable, to OpenAI bad as well."""
    assert isinstance(error, RequestValidationError)
    found = [each for each in error.errors() if isinstance(each, dict)]
    no_json = any(each.get("type") == "json_invalid" for each in found)
    message = "; ".join(f"{_place(each['loc'])}: {each['msg']}" for each in found[:3])
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    path = request.url.path
    status = 422 if path.endswith("/rerank") and not no_json else 400
    return _answer(request, status, "the request is no valid JSON" if no_json else message + more)


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, str(error.detail), dict(error.headers or {}))


def _place(location: Sequence[object]) -> str:
    """Where in the body something is: fields and places in lists, without the types that were tried."""
    parts = [str(part) for part in location if part != "body"]
    return ".".join(part for part in parts if _FIELD.fullmatch(part) and part != "str") or "body"


def _answer(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    path = request.url.path
    status = status_of(path, status)
    return JSONResponse(error_body(path, status, message), status, headers)
