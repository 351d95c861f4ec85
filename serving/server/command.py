"""The command that starts a server."""

import argparse
import asyncio
import math
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from registry import ConfigError
from serving.server.address import check_port, is_loopback, listen
from serving.server.settings import Settings

KEY = "RANKERS_API_KEY"
ENDPOINT_KEY = "RANKERS_ENDPOINT_KEY"
_SHORTEST_KEY = 16

EXAMPLES = f"""examples:
  python -m serving runs/quickstart/2026-01-31_12-00-00
  python -m serving functions=runs/quickstart/2026-01-31_12-00-00 pool=runs/lranker_quickstart/2026-01-31_12-00-00
  {KEY}=... python -m serving my-reranker --host 0.0.0.0 --port 8080
  python -m serving runs/reward_model_math/TIME --endpoint http://localhost:9000/v1 --endpoint-model NAME
  torchrun --nproc_per_node=2 -m serving runs/lranker_quickstart/2026-01-31_12-00-00 --pool NAME=FOLDER
  python -m serving export --help

Routes: /rerank, /v1/rerank, /v2/rerank, /tei/rerank, /v1/chat/completions, /v1/search, /v1/route, /v1/feedback,
/v1/users, /v1/models, /health, /ready, /metrics; /docs describes them, and / is a page to try them. SIGTERM and Ctrl-C
end the server after it has answered what it has begun. Where torchrun starts several processes, each searches a slice
of every pool, and the first one has the address."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    default = Settings()
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, a checkpoint, or NAME=PATH")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="the port; 0 for any free one (default: 8000)")
    parser.add_argument("--pool", action="append", default=[], metavar="NAME=FOLDER", help="one more pool for LRankers")
    parser.add_argument("--models", type=Path, help="a file of the language models that routers choose from")
    parser.add_argument(
        "--database",
        metavar="WHERE",
        help="where users' feedback and heads are kept: a file for SQLite, a URL such as postgresql://user@host/name, "
        "or off (default: feedback.sqlite in the folder of the first run that can learn)",
    )
    parser.add_argument("--api-key-file", type=Path, help=f"a file with the API key (default: ${KEY}, if it is set)")
    parser.add_argument("--endpoint", metavar="URL", help="where the responses to chats come from, such as .../v1")
    parser.add_argument("--endpoint-model", metavar="NAME", help=f"its model; its key is ${ENDPOINT_KEY}, if it is set")
    for name, unit in _NUMBERS.items():
        kind: Any = type(getattr(default, name))
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, default=getattr(default, name), help=f"{unit} (default: %(default)s)")
    parser.add_argument("--log-texts", action="store_true", help="write queries into the log")


_PACKAGES = ("alembic", "fastapi", "prometheus_client", "sqlalchemy", "starlette", "uvicorn")
_NUMBERS = {
    "max_body": "most bytes of a request",
    "max_documents": "most documents of a request",
    "max_waiting": "most texts that wait for a ranker; more are refused with 429",
    "batch_texts": "most texts that a ranker reads at once",
    "batch_seconds": "how long the first request of a batch waits for others",
    "timeout": "seconds until a request is given up",
    "learn_after": "new feedback of a user after which the user's head is trained",
    "learn_every": "most seconds until feedback is seen that another server of the same database took",
    "max_candidates": "most candidates of a chat",
    "max_tokens": "most tokens of a candidate",
    "max_waiting_candidates": "most candidates that wait or are sampled; more are refused with 429",
    "chat_timeout": "seconds until a chat is given up",
    "num_remembered": "texts whose vectors each ranker remembers; 0 for none",
}


def serve(chosen: argparse.Namespace) -> int:
    """Run a server until it is told to end.

    Raises:
        ConfigError: If the extra `serve` is missing, a path is wrong, other machines could use it without a key, or it
            cannot listen on its address.
        ValueError: If a ranker cannot be served.
    """
    try:
        import uvicorn
        from fastapi import FastAPI

        from serving.server.app import create_app
        from serving.server.hall import Hall
        from serving.server.learner import Learner
        from serving.server.logs import set_up_logs
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        raise ConfigError(
            str(error.name), "is not installed.", cure='pip install -c constraints.txt -e ".[serve]"'
        ) from error
    from serving.chat.endpoint import Endpoint
    from serving.server.loading import follow, keep_feedback, load, named
    from serving.slices import Slices

    runs, pools = named(chosen.runs, "run"), named(chosen.pool, "pool")
    check_port(chosen.port)
    settings = Settings(api_key=_key(chosen.api_key_file), **_chosen(chosen))
    if settings.api_key is None and not is_loopback(chosen.host):
        cure = f"set {KEY}, or --api-key-file, or listen on 127.0.0.1"
        raise ConfigError("--host", f"{chosen.host} lets other machines in, and there is no API key.", cure=cure)
    if (chosen.endpoint is None) != (chosen.endpoint_model is None):
        cure = "give both, such as --endpoint http://localhost:9000/v1 --endpoint-model NAME, or neither"
        raise ConfigError("--endpoint", "needs --endpoint-model, and the other way round.", cure=cure)
    endpoint = None
    if chosen.endpoint is not None:
        key = os.environ.get(ENDPOINT_KEY, "").strip() or None
        if key is not None and not _is_sendable(key):
            problem = "holds more than printable ASCII, which no header can."
            raise ConfigError(ENDPOINT_KEY, problem, cure=f"export {ENDPOINT_KEY}=..., the key as its owner gave it")
        endpoint = Endpoint(chosen.endpoint, chosen.endpoint_model, key, settings.chat_timeout)
    slices = Slices.of_launch()
    sockets = listen(chosen.host, chosen.port) if slices is None or slices.is_first else []
    set_up_logs()
    if slices is not None and not slices.is_first:
        # A signal to torchrun reaches all processes, and these wait for the first one.
        _on_signals(lambda signum, frame: None)
        follow(runs, pools, slices)
        return 0
    hall = Hall(settings)
    learner = Learner(hall)
    failures: list[Exception] = []

    async def loading(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(run())
        try:
            yield
            await task
        finally:
            await learner.close()

    async def run() -> None:
        try:
            await asyncio.to_thread(load, hall, runs, pools, chosen.models, endpoint, slices)
            if server.should_exit:
                return
            if await asyncio.to_thread(keep_feedback, hall, runs, chosen.database):
                learner.start()
            while not server.started and not server.should_exit:
                await asyncio.sleep(0.01)
            if server.should_exit:
                return
            hall.is_ready = True
            listed = ", ".join(f"{name} ({', '.join(hall.does(name))})" for name in hall.kinds)
            print(f"Ready: http://{f'[{host}]' if ':' in host else host}:{port} serves {listed}", flush=True)
        except Exception as error:
            failures.append(error)
            server.should_exit = True

    host, port = sockets[0].getsockname()[:2]
    config = uvicorn.Config(
        create_app(hall, loading),
        chosen.host,
        chosen.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(max(settings.timeout, settings.chat_timeout)) + 1,
    )
    server = uvicorn.Server(config)

    def end(signum: int, frame: object) -> None:
        server.should_exit = True

    # Until uvicorn listens to signals itself. When it has ended it raises the one that it got again, by which the
    # process would end, and a server that has ended in order should exit with 0.
    _on_signals(end)
    server.run(sockets)
    if slices is not None:
        slices.close()
    if failures:
        raise failures[0]
    return 0


def _on_signals(work: Callable[[int, Any], None]) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, work)


def _chosen(chosen: argparse.Namespace) -> dict[str, Any]:
    default = Settings()
    for name in _NUMBERS:
        least, value = 0 if name in ("num_remembered", "batch_seconds") else 1, getattr(chosen, name)
        option = f"--{name.replace('_', '-')}"
        cure = f"give another number, or leave {option} out for {getattr(default, name)}"
        if not math.isfinite(value):
            raise ConfigError(option, f"has to be a finite number, got {value}.", cure=cure)
        if value < least:
            raise ConfigError(option, f"has to be {least} or more, got {value}.", cure=cure)
    return {name: getattr(chosen, name) for name in (*_NUMBERS, "log_texts")}


def _key(file: Path | None) -> str | None:
    """The API key; from a file or the environment, because other users see a process's arguments."""
    try:
        key = os.environ.get(KEY) if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ConfigError(str(file), f"cannot be read: {reason}.", cure="give a file with the key") from error
    if key is None:
        return None
    key, cure = key.strip(), "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
    if len(key) < _SHORTEST_KEY:
        raise ConfigError("API key", f"has fewer than {_SHORTEST_KEY} characters.", cure=cure)
    if not _is_sendable(key):  # clients encode other letters in different ways
        raise ConfigError("API key", "holds more than printable ASCII.", cure=cure)
    return key


def _is_sendable(key: str) -> bool:
    """Whether every client sends a key as the same bytes."""
    return key.isascii() and key.isprintable()
