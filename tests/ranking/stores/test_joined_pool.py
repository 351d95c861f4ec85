"""Joined pools rank as one pool that was built of all their texts, and copy nothing."""

import pickle
from pathlib import Path

import pytest
import torch
from pools import write_pool

from datamodules.partitioned_candidates import PartitionedCandidates
from ranking.pools.pool_evaluation import Qrels
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.candidate_pool_writer import CandidatePoolWriter
from ranking.stores.joined_pool import JoinedPool
from ranking.vectors.search import top_k
from registry import ConfigError

NUM_OTHERS, DIM = 150, 16


def write_others(
    path: Path, *, dtype: str = "float32", base: CandidatePool | None = None, prefix: str = ""
) -> CandidatePool:
    """Candidates of another kind, with ids that the first pool has too; behind those of `base`, with its queries."""
    vectors = torch.nn.functional.normalize(torch.randn(NUM_OTHERS, DIM, generator=torch.Generator().manual_seed(7)))
    with CandidatePoolWriter(path, feature_dim=DIM, dtype=dtype, settings={}) as writer:
        if base is not None:
            ids, texts = ([get(row) for row in range(base.num_candidates)] for get in (base.id, base.text))
            writer.add_candidates(ids, texts, torch.cat(list(base.blocks())))
        for first in range(0, NUM_OTHERS, 60):
            rows = range(first, min(first + 60, NUM_OTHERS))
            ids = [f"{prefix}c{row}" for row in rows]
            writer.add_candidates(ids, [f"other {row}" for row in rows], vectors[rows.start : rows.stop])
        known = (base or write_pool(path.parent / "for_queries")).queries
        count = known.num_queries
        nothing = torch.zeros(count + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        writer.add_queries(
            ids=[known.id(query) for query in range(count)],
            texts=[known.text(query) for query in range(count)],
            features=known.features(torch.arange(count)),
            relevant_offsets=known.relevant_offsets,
            relevant=known.relevant % NUM_OTHERS,
            label=known.label,
            history_offsets=nothing[0],
            history=nothing[1],
            own_offsets=nothing[0],
            own=nothing[1],
            split=["test"] * count,
        )
        return CandidatePool.open(writer.finish())


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> CandidatePool:
    return write_others(tmp_path_factory.mktemp("others") / "others")


def test_joined_pools_rank_as_one_pool_of_all_their_texts(
    pool: CandidatePool, others: CandidatePool, tmp_path: Path
) -> None:
    joined = JoinedPool([pool, others])
    built = write_others(tmp_path / "built", base=pool, prefix="others/")
    assert joined.num_candidates == built.num_candidates == 350
    every = torch.arange(350)
    assert torch.equal(joined.features(every.flip(0)), built.features(every.flip(0)))
    assert torch.equal(torch.cat(list(joined.blocks(150, 310, 70))), torch.cat(list(built.blocks(150, 310, 70))))
    for row in range(350):
        assert (joined.id(row), joined.text(row)) == (built.id(row), built.text(row))
    ids = [joined.id(row) for row in (3, 199, 200, 349)] + ["others/c900", "nowhere/c1", "d"]
    assert joined.rows_of(ids).tolist() == built.rows_of(ids).tolist() == [3, 199, 200, 349, -1, -1, -1]
    queries = torch.arange(pool.queries.num_queries)
    vectors = joined.queries.features(queries)
    _, rows = top_k(vectors, joined, 20)
    expected = (vectors.double() @ torch.cat(list(built.blocks())).double().T).argsort(dim=1, descending=True)[:, :20]
    assert torch.equal(rows, expected) and bool((rows >= 200).any())
    qrels = Qrels.of(joined, queries)
    ours, theirs = (qrels.places(vectors.unsqueeze(1), each) for each in (joined, built))
    assert torch.equal(ours.above, theirs.above)
    assert bool((ours.above >= qrels.places(vectors.unsqueeze(1), pool).above).all())


def test_a_worker_process_opens_joined_pools_again(pool: CandidatePool, others: CandidatePool) -> None:
    again = pickle.loads(pickle.dumps(JoinedPool([pool, others])))
    assert again.num_candidates == 350 and again.id(200) == "others/c0"


def test_the_queries_and_their_judgements_are_those_of_the_first_pool(
    pool: CandidatePool, others: CandidatePool
) -> None:
    data = PartitionedCandidates(str(pool.path), num_partitions=4, num_splits=2, mixed_with=[str(others.path)])
    alone = PartitionedCandidates(str(pool.path), num_partitions=4, num_splits=2)
    assert data.facts["num_items"] == 350
    for split in ("train", "val", "test"):
        assert torch.equal(data.queries(split), alone.queries(split))


def test_pools_of_other_vectors_or_of_one_name_are_refused(pool: CandidatePool, tmp_path: Path) -> None:
    halves = write_others(tmp_path / "halves", dtype="float16")
    with pytest.raises(ConfigError, match=r"halves are others than those of .*: dtype is torch.float16, not"):
        JoinedPool([pool, halves])
    with pytest.raises(ConfigError, match=r"two pools are in folders called pool"):
        JoinedPool([pool, pool])
