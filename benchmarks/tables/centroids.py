"""Centroids: how much LRanker's embedding of a query depends on the part of the pool it is shown, and what it costs."""

import time
from pathlib import Path
from typing import Any

import torch

from rankers.checkpoint import load_ranker
from ranking.pools.pool_batch import Contexts
from ranking.stores.candidate_pool import CandidatePool
from ranking.vectors.partitions import Partitions
from registry import DATAMODULES, EXTRACTORS, load_config

NUM_QUERIES, NUM_CONTEXTS = 16, 10


def sensitivity(run: Path) -> dict[str, Any]:
    """The distance between a query's embeddings in different parts of the pool, and the cost of another embedding."""
    config = load_config(run / "config.yaml")
    features, given = config.features, str(config.datamodule.get("path"))
    pool = CandidatePool.open(EXTRACTORS.build(features, path="features").path if features else Path(given))
    datamodule = DATAMODULES.build({**config.datamodule, "path": str(pool.path)}, path="datamodule")
    ranker = load_ranker(run)
    partitions: Partitions = datamodule.partitions  # type: ignore[attr-defined]
    ranker.prepare(pool, partitions)  # type: ignore[attr-defined]
    queries = datamodule.queries("test")[:NUM_QUERIES]  # type: ignore[attr-defined]
    tokens = [torch.tensor(ids) for ids in ranker.tokenize([pool.queries.text(int(query)) for query in queries])]  # type: ignore[attr-defined]
    padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    lengths = torch.tensor([len(ids) for ids in tokens])
    contexts = Contexts(
        *(part[:NUM_CONTEXTS].expand(len(tokens), *part[:NUM_CONTEXTS].shape) for part in ranker.partition_contexts)  # type: ignore[attr-defined]
    )
    started = time.perf_counter()
    embed = ranker.embedder(padded, lengths)  # type: ignore[attr-defined]
    first = embed(Contexts(*(part[:, :1] for part in contexts)))
    once = time.perf_counter() - started
    started = time.perf_counter()
    embeddings = embed(contexts)
    many = time.perf_counter() - started
    assert torch.allclose(first[:, 0], embeddings[:, 0], atol=1e-3)
    length = embeddings.mean(dim=1).norm(dim=1).square()
    spread = ((1 - length) * NUM_CONTEXTS / (NUM_CONTEXTS - 1)).mean()
    return {"spread": float(spread), "seconds_once": once, "seconds_more": many / NUM_CONTEXTS}
