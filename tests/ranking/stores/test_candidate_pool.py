"""A pool gives back what was written, whatever the dtype and the shards."""

import math
import pickle
import random
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pools import write_pool
from torch import Tensor

from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.candidate_pool_writer import CandidatePoolWriter
from ranking.stores.files import StoreError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
RELEVANT = [[(3, 1.0), (29, 2.5)], [], [(0, 1.0)], [(7, 3.0), (8, 1.0), (9, 0.5)], [(29, 1.0)]]
HISTORY = [[], [5, 5, 1], [29], [], [0, 1]]
OWN = [[3, 29, 4], [], [], [7, 8, 9, 10], []]
SPLIT = ["train", "val", None, "test", "train"]


def text(row: int) -> str:
    return f"candidate {row} — 日本語\n" if row % 3 else f"{row}"


def write(path: Path, vectors: Tensor, dtype: str, cuts: list[int], query_cuts: list[int]) -> Path:
    queries = vectors[:5] * 2
    with CandidatePoolWriter(path, feature_dim=8, dtype=dtype, settings={"seed": 7}) as writer:
        for first, last in pairwise(cuts):
            ids = [f"c-{row}" for row in range(first, last)]
            assert writer.add_candidates(ids, [text(row) for row in range(first, last)], vectors[first:last]) == first
        for first, last in pairwise(query_cuts):
            relevant = flat(RELEVANT[first:last])
            writer.add_queries(
                ids=[f"q{query}" for query in range(first, last)],
                texts=[f"query {query} ü" for query in range(first, last)],
                features=queries[first:last],
                relevant_offsets=offsets(RELEVANT[first:last]),
                relevant=torch.tensor([row for row, _ in relevant], dtype=torch.int64),
                label=torch.tensor([label for _, label in relevant]),
                history_offsets=offsets(HISTORY[first:last]),
                history=torch.tensor(flat(HISTORY[first:last]), dtype=torch.int64),
                own_offsets=offsets(OWN[first:last]),
                own=torch.tensor(flat(OWN[first:last]), dtype=torch.int64),
                split=SPLIT[first:last],
            )
        return writer.finish()


def offsets(lists: list) -> Tensor:
    return torch.tensor([0, *map(len, lists)]).cumsum(0)


def flat(lists: list) -> list:
    return [each for some in lists for each in some]


def ragged(values: Tensor, starts: Tensor) -> list[list]:
    return [values[start:end].tolist() for start, end in pairwise(starts.tolist())]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cuts", [([0, 30], [0, 5]), ([0, 11, 12, 30], [0, 2, 3, 5])])
def test_what_was_written_is_read_back_exactly(dtype: str, cuts: tuple[list[int], list[int]], tmp_path: Path) -> None:
    vectors = torch.randn(30, 8, generator=torch.Generator().manual_seed(1)).to(DTYPES[dtype])
    pool = CandidatePool.open(write(tmp_path / "pool", vectors, dtype, *cuts), verify=True)
    assert (pool.num_candidates, pool.feature_dim, pool.dtype, pool.encoder) == (30, 8, DTYPES[dtype], None)
    index = torch.tensor([29, 0, 11, 11, 12, 10, 5, 0])
    assert torch.equal(pool.features(index), vectors[index])
    assert pool.features(index[:0]).shape == (0, 8)
    assert [pool.text(row) for row in range(30)] == [text(row) for row in range(30)]
    assert [pool.id(row) for row in range(30)] == [f"c-{row}" for row in range(30)]
    queries = pool.queries
    assert queries.num_queries == 5
    assert torch.equal(queries.features(torch.tensor([4, 0, 2])), (vectors[:5] * 2)[[4, 0, 2]])
    assert [queries.text(query) for query in range(5)] == [f"query {query} ü" for query in range(5)]
    assert [queries.id(query) for query in range(5)] == [f"q{query}" for query in range(5)]
    assert queries.split.tolist() == [0, 1, 255, 2, 0]
    assert ragged(queries.relevant, queries.relevant_offsets) == [[row for row, _ in pairs] for pairs in RELEVANT]
    assert ragged(queries.label, queries.relevant_offsets) == [[label for _, label in pairs] for pairs in RELEVANT]
    assert ragged(queries.history, queries.history_offsets) == HISTORY
    assert ragged(queries.own, queries.own_offsets) == OWN


@pytest.mark.parametrize(
    ("start", "stop", "size"), [(0, None, 65536), (0, 30, 7), (5, 25, 4), (11, 12, 1), (12, 12, 3)]
)
def test_blocks_are_the_rows_in_order_without_a_copy(tmp_path: Path, start: int, stop: int | None, size: int) -> None:
    vectors = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    pool = CandidatePool.open(write(tmp_path / "pool", vectors, "float32", [0, 11, 12, 30], [0, 5]))
    blocks = list(pool.blocks(start, stop, size))
    assert torch.equal(torch.cat([vectors[:0], *blocks]), vectors[start:stop])
    assert all(0 < len(block) <= size for block in blocks)
    maps = [shard.tensors["features"].untyped_storage().data_ptr() for shard in pool._candidates.shards]
    assert all(block.untyped_storage().data_ptr() in maps for block in blocks)


def test_rows_are_found_by_id_and_unknown_ids_are_minus_one(tmp_path: Path) -> None:
    path = write(tmp_path / "pool", torch.randn(30, 8), "float16", [0, 11, 12, 30], [0, 5])
    pool = CandidatePool.open(path)
    rows = list(range(30)) * 2
    random.Random(0).shuffle(rows)
    assert pool.rows_of([f"c-{row}" for row in rows]).tolist() == rows
    assert pool.rows_of(["c-30", "c-3", "", "C-3", "c-3 "]).tolist() == [-1, 3, -1, -1, -1]
    assert pool.rows_of([]).shape == (0,)


def test_different_ids_with_equal_hashes_are_distinguished_in_many_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ranking.stores import candidate_pool_writer, id_index

    def poor(ids: list[str]) -> object:
        return id_index.np.array([(len(each) % 3 - 1) << 62 for each in ids], dtype="int64")

    monkeypatch.setattr(id_index, "BUCKET_ROWS", 40)
    for module in (id_index, candidate_pool_writer):
        monkeypatch.setattr(module, "hash_ids", poor)
    ids = [f"{row:x}" for row in range(300)]
    with CandidatePoolWriter(tmp_path / "pool", feature_dim=2, dtype="float32", settings={}) as writer:
        for first in range(0, 300, 70):
            some = ids[first : first + 70]
            writer.add_candidates(some, some, torch.ones(len(some), 2))
        pool = CandidatePool.open(writer.finish())
    assert len(pool.manifest["shards"]["index"]) == 8
    assert pool.rows_of(ids[::-1]).tolist() == list(range(300))[::-1]
    assert pool.rows_of(["1ff", "x"]).tolist() == [-1, -1]


def test_a_pool_needs_no_vectors_and_knows_the_users_of_its_queries(tmp_path: Path) -> None:
    with CandidatePoolWriter(tmp_path / "pool", feature_dim=0, dtype="float32", settings={}) as writer:
        writer.add_candidates(["a", "b"], ["text", "more"], torch.empty(2, 0))
        offsets = torch.arange(4)
        queries = {"ids": ["x1", "x2", "y"], "texts": ["q"] * 3, "users": ["x", "x", "y"]}
        writer.add_queries(
            **queries, features=torch.empty(3, 0), relevant_offsets=offsets, relevant=torch.tensor([0, 1, 1])
        )
        pool = CandidatePool.open(writer.finish(), verify=True)
    assert pool.features(torch.tensor([1, 0, 1])).shape == (3, 0)
    assert pool.queries.features(torch.tensor([2])).shape == (1, 0)
    assert [block.shape for block in pool.blocks(size=1)] == [(1, 0), (1, 0)]
    assert "no vectors" in repr(pool)
    one, two, other = pool.queries.user.tolist()
    assert one == two != other


def test_a_pool_needs_no_queries(tmp_path: Path) -> None:
    with CandidatePoolWriter(tmp_path / "pool", feature_dim=2, dtype="float32", settings={}) as writer:
        writer.add_candidates(["a"], ["text"], torch.ones(1, 2))
        pool = CandidatePool.open(writer.finish(), verify=True)
    assert (pool.num_candidates, pool.queries.num_queries) == (1, 0)
    assert pool.queries.relevant_offsets.tolist() == [0]
    assert pool.queries.features(torch.tensor([], dtype=torch.int64)).shape == (0, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pool_knows_whether_its_vectors_have_length_one(tmp_path: Path, dtype: str) -> None:
    assert write_pool(tmp_path / "unit", dtype=dtype).normalized
    assert not write_pool(tmp_path / "free", dtype=dtype, normalize=False).normalized


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is in memory")
def test_opening_maps_vectors_ids_and_texts_and_reads_none_of_them(tmp_path: Path) -> None:
    with CandidatePoolWriter(tmp_path / "pool", feature_dim=512, dtype="float32", settings={}) as writer:
        for shard in range(4):
            ids = [f"{shard}-{row:040d}" for row in range(8192)]
            writer.add_candidates(ids, [each * 10 for each in ids], torch.ones(8192, 512))
        writer.finish()

    def held() -> int:
        # Not the pages of files, which the system maps in large runs and takes back when it likes.
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
        return int(line.split()[1]) << 10

    before = held()
    pool = CandidatePool.open(tmp_path / "pool")
    assert pool.features(torch.tensor([32767])).sum() == 512
    assert pool.rows_of([f"3-{8191:040d}"]).tolist() == [32767]
    assert held() - before < 2 << 20


def test_reading_past_the_end_is_an_index_error(pool: CandidatePool) -> None:
    for read in (pool.id, pool.text, pool.queries.id, pool.queries.text):
        for wrong in (-1, 1000):
            with pytest.raises(IndexError):
                read(wrong)
    for wrong in (-1, 200):
        with pytest.raises(IndexError):
            pool.features(torch.tensor([wrong]))


def test_a_pickled_pool_is_its_path(pool: CandidatePool) -> None:
    pickled = pickle.dumps(pool)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert torch.equal(again.features(torch.arange(200)), pool.features(torch.arange(200)))


def test_vectors_that_a_dtype_cannot_hold_are_refused_when_written(tmp_path: Path) -> None:
    vectors = torch.ones(3, 8)
    with CandidatePoolWriter(tmp_path / "p", feature_dim=8, dtype="float16", settings={}) as writer:
        for wrong, message in ((70_000, r"candidate 1 .* 70000.*float16(.|\n)*float32"), (math.nan, "nan")):
            vectors[1, 2] = wrong
            with pytest.raises(StoreError, match=message):
                writer.add_candidates(["a", "b", "c"], ["a", "b", "c"], vectors)
        assert writer.num_candidates == 0
        writer.add_candidates(["a", "b"], ["a", "b"], torch.ones(2, 8))
        with pytest.raises(StoreError, match=r"query 0 .* inf"):
            add_one_query(writer, features=torch.full((1, 8), math.inf))


def test_two_candidates_with_one_id_are_named(tmp_path: Path) -> None:
    with CandidatePoolWriter(tmp_path / "p", feature_dim=8, dtype="float16", settings={}) as writer:
        writer.add_candidates(["a", "b", "c"], ["1", "2", "3"], torch.ones(3, 8))
        writer.add_candidates(["d", "b"], ["4", "5"], torch.ones(2, 8))
        with pytest.raises(StoreError, match="candidates 1 and 4 have the same id 'b'"):
            writer.finish()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relevant": torch.tensor([2, 0])}, "relevant names a candidate outside the 2"),
        ({"relevant": torch.tensor([-1, 0])}, "relevant names a candidate outside the 2"),
        ({"history": torch.tensor([2]), "history_offsets": torch.tensor([0, 1])}, "history names"),
        ({"own": torch.tensor([2]), "own_offsets": torch.tensor([0, 1])}, "own names"),
        ({"own": torch.tensor([1])}, "own_offsets do not fit"),
        ({"relevant_offsets": torch.tensor([0, 3])}, "do not fit"),
        ({"relevant_offsets": torch.tensor([1, 2])}, "must rise from 0"),
        ({"texts": ["a", "b"]}, "do not fit"),
        ({"label": torch.tensor([1.0, 0.0])}, "not a finite number above 0"),
        ({"label": torch.tensor([1.0, math.nan])}, "not a finite number above 0"),
        ({"features": torch.ones(1, 9)}, "expected"),
        ({"split": ["dev"]}, "dev"),
    ],
)
def test_queries_that_do_not_fit_are_refused_when_written(tmp_path: Path, changes: dict, message: str) -> None:
    with CandidatePoolWriter(tmp_path / "p", feature_dim=8, dtype="float32", settings={}) as writer:
        writer.add_candidates(["a", "b"], ["a", "b"], torch.ones(2, 8))
        with pytest.raises(ValueError, match=message):
            add_one_query(writer, **changes)
        assert writer.num_queries == 0


def test_candidates_come_before_queries(tmp_path: Path) -> None:
    with CandidatePoolWriter(tmp_path / "p", feature_dim=8, dtype="float32", settings={}) as writer:
        with pytest.raises(StoreError, match="no candidate was written"):
            writer.finish()
        writer.add_candidates(["a", "b"], ["a", "b"], torch.ones(2, 8))
        add_one_query(writer)
        with pytest.raises(ValueError, match="cannot be added after queries were"):
            writer.add_candidates(["c"], ["c"], torch.ones(1, 8))


def add_one_query(writer: CandidatePoolWriter, **changes: object) -> None:
    """A query with two relevant candidates."""
    usual = {
        "ids": ["q"],
        "texts": ["query"],
        "features": torch.ones(1, 8),
        "relevant_offsets": torch.tensor([0, 2]),
        "relevant": torch.tensor([0, 1]),
    }
    writer.add_queries(**(usual | changes))
