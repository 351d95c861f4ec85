"""Small candidate pools that every kind of test can use."""

from pathlib import Path

import pytest
import torch

from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.candidate_pool_writer import CandidatePoolWriter

NUM_CANDIDATES, NUM_QUERIES, DIM, OWN = 200, 60, 16, 20
WORDS = [
    "read",
    "write",
    "open",
    "close",
    "sort",
    "list",
    "file",
    "key",
    "value",
    "return",
    "first",
    "last",
    "count",
    "find",
    "path",
    "line",
    "text",
    "number",
]


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> CandidatePool:
    """200 candidates in four shards and 60 queries, 36 of them to train, 12 to validate, 12 to test.

    Vectors have 16 features, fp32, length one. Each query has 1 to 3 relevant candidates with labels 1 to 3, and a
    history of 0 to 5 others. What makes a candidate relevant is its likeness to the query in 4 of the features; the
    others are louder noise. A query and its relevant candidates have words in common.
    """
    return write_pool(tmp_path_factory.mktemp("pools") / "pool")


@pytest.fixture(scope="session")
def listed_pool(tmp_path_factory: pytest.TempPathFactory) -> CandidatePool:
    """The same, but each query ranks 20 candidates of its own, the relevant ones among them."""
    return write_pool(tmp_path_factory.mktemp("pools") / "listed", own=True)


def write_pool(path: Path, *, own: bool = False, dtype: str = "float32", normalize: bool = True) -> CandidatePool:
    """Write the small pool."""
    draw = torch.Generator().manual_seed(0)
    vectors, noise = torch.randn(NUM_CANDIDATES, DIM, generator=draw), torch.randn(NUM_QUERIES, DIM, generator=draw)
    words = torch.randint(0, len(WORDS), (NUM_CANDIDATES, 8), generator=draw)
    relevant, label, history, lists, queries = [], [], [], [], []
    for query in range(NUM_QUERIES):
        order = torch.randperm(NUM_CANDIDATES, generator=draw)
        count, seen = query % 3 + 1, query % 6
        relevant.append(order[:count])
        label.append(torch.randint(1, 4, (count,), generator=draw).float())
        history.append(order[count : count + seen])
        lists.append(order[:OWN].sort().values if own else order[:0])
        queries.append(torch.cat([vectors[relevant[-1], :4].mean(dim=0), 2 * noise[query, 4:]]))
    features = torch.stack(queries)
    if normalize:
        vectors, features = (torch.nn.functional.normalize(each, dim=1) for each in (vectors, features))
    with CandidatePoolWriter(path, feature_dim=DIM, dtype=dtype, settings={"own": own}) as writer:
        for first in range(0, NUM_CANDIDATES, 60):
            rows = range(first, min(first + 60, NUM_CANDIDATES))
            texts = [" ".join(WORDS[word] for word in words[row].tolist()) for row in rows]
            writer.add_candidates([f"c{row}" for row in rows], texts, vectors[rows.start : rows.stop])
        writer.add_queries(
            ids=[f"q{query}" for query in range(NUM_QUERIES)],
            texts=[" ".join(WORDS[word] for word in words[rows[0], :4].tolist()) for rows in relevant],
            features=features,
            relevant_offsets=_offsets(relevant),
            relevant=torch.cat(relevant),
            label=torch.cat(label),
            history_offsets=_offsets(history),
            history=torch.cat(history),
            own_offsets=_offsets(lists),
            own=torch.cat(lists),
            split=[("train", "train", "val", "train", "test")[query % 5] for query in range(NUM_QUERIES)],
        )
        return CandidatePool.open(writer.finish())


def _offsets(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.tensor([0, *map(len, parts)]).cumsum(0)
