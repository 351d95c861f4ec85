"""torchrun ... -m serving: processes that each search a slice of a pool find what one process finds."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from pools import DIM

from language_models.backbone import Backbone
from rankers.checkpoint import load_ranker, save_pretrained
from rankers.lranker.lranker import LRanker
from ranking.stores.candidate_pool import CandidatePool
from serving.searcher import Searcher

QUERIES = ["open the file", "sort a list", "read the value of a key"]


def command(processes: int, *arguments: object) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [*launch, "-m", "serving", *map(str, arguments)]


@pytest.fixture
def saved(tiny_bert: Path, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    options: dict[str, Any] = {"template": "the value of {query} <|embedding|> key", "max_length": 64}
    backbone = Backbone(model=str(tiny_bert), dtype="float32")
    ranker = LRanker(DIM, backbone, aggregator={"name": "kmeans", "num_centroids": 4}, **options)
    ranker.configure_model()
    return save_pretrained(ranker, tmp_path / "tiny")


def first_of(launcher: int) -> int:
    """The process of rank 0 that torchrun has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    (first,) = (pid for pid in children if b"\0RANK=0\0" in Path(f"/proc/{pid}/environ").read_bytes())
    return int(first)


@pytest.mark.slow
def test_four_processes_serve_what_one_finds_and_end_in_order(saved: Path, pool: CandidatePool) -> None:
    asked = command(4, saved, "--pool", f"all={pool.path}", "--port", "0")
    server = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert server.stdout is not None and server.stderr is not None
    guard = threading.Timer(180, server.kill)
    guard.start()
    try:
        ready = server.stdout.readline()
        while ready and not ready.startswith("Ready: "):
            ready = server.stdout.readline()
        assert ready.endswith("serves tiny (search)\n"), server.stderr.read()
        url = f"{ready.split()[1]}/v1/search"
        found = [httpx.post(url, json={"query": query, "top_k": 5}, timeout=60).json() for query in QUERIES]
        os.kill(first_of(server.pid), signal.SIGTERM)
        server.communicate()
        assert server.returncode == 0, "the other processes end with the first one"
    finally:
        server.kill()
        guard.cancel()
    ranker = load_ranker(saved)
    assert isinstance(ranker, LRanker)
    for answer, expected in zip(found, Searcher(ranker, pool).rank(QUERIES, top_k=5), strict=True):
        assert [each["id"] for each in answer["results"]] == [each.id for each in expected]
        scores = [each["score"] for each in answer["results"]]
        assert scores == pytest.approx([each.score for each in expected], abs=1e-5)


@pytest.mark.slow
def test_a_process_that_cannot_load_its_pool_ends_the_server(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = subprocess.run(
        command(2, saved, "--pool", f"all={tmp_path / 'empty'}", "--port", "0"),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.returncode == 1 and "empty" in ended.stderr
