"""Search: exact best candidates and exact places of given candidates, from one scan of a pool.

The scan scores one block of the pool after the other. It keeps only the scores of one block and the results so far,
never all scores of (queries x candidates). Scores are fp32, for any dtype of the pool. With several processes, each can
scan its own slice of the pool; all of them get the whole result.

A pool is a tensor, several tensors one after the other, or anything that has `num_candidates`, `dtype`,
`blocks(start, stop, size)` and `features(rows)`, such as a CandidatePool.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from ranking.places import Places
from ranking.vectors.collectors import Best, Ranks
from ranking.vectors.products import Scorer, full_precision

_CHUNK = 512  # queries scored together
_CACHED = 2**20  # scores and vector entries that fit in a CPU's cache
_MEMORY = 2**26  # scores that a GPU keeps at a time


@runtime_checkable
class Pool(Protocol):
    """A large set of candidate vectors that can be read block by block."""

    @property
    def num_candidates(self) -> int:
        """Number of candidates."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the stored vectors."""
        ...

    def blocks(self, start: int = 0, stop: int | None = None, size: int = 65536) -> Iterator[Float[Tensor, "n D"]]:
        """Yield the vectors in the order of their rows."""
        ...

    def features(self, rows: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """The vectors of these rows."""
        ...


AnyPool = Pool | Float[Tensor, "N D"] | Sequence[Float[Tensor, "_ D"]]


class Found(NamedTuple):
    """The result of a scan.

    Args:
        scores: The best scores of each query, highest first, -inf where a query has fewer candidates.
        rows: The candidates with these scores, -1 where there are fewer; of equal scores, the lower row comes first.
        places: The places of the given candidates.
    """

    scores: Float[Tensor, "Q k"]
    rows: Int[Tensor, "Q k"]
    places: Places


def top_k(
    queries: Float[Tensor, "Q D"],
    pool: AnyPool,
    k: int,
    *,
    inverse_norms: Float[Tensor, " N"] | None = None,
    removed: Int[Tensor, "E 2"] | None = None,
    distributed: bool = False,
) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """The highest inner products and their rows, best first; of equal scores, the lower row comes first.

    A pool with fewer than k candidates gives fewer columns. A query with fewer candidates left, because some are
    removed, has -inf and -1 in its last columns.

    Args:
        queries: The queries; scores are computed on their device.
        pool: The candidates.
        k: Number of candidates to find.
        inverse_norms: One over each candidate's length, to rank by cosine if the pool is not normalized.
        removed: Pairs (query, row) of candidates that a query must not get.
        distributed: Whether each process scans only a slice of the pool; all must pass the same queries.

    Raises:
        ValueError: If a score is nan.

    >>> top_k(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [3.0, 4.0], [1.0, 0.0]]), k=2)
    (tensor([[6., 2.]]), tensor([[1, 2]]))
    """
    given = {"inverse_norms": inverse_norms, "removed": removed, "distributed": distributed}
    return search(queries, pool, k=k, **given)[:2]


def places(
    queries: Float[Tensor, "Q D"],
    pool: AnyPool,
    query_index: Int[Tensor, " R"],
    rows: Int[Tensor, " R"],
    *,
    inverse_norms: Float[Tensor, " N"] | None = None,
    removed: Int[Tensor, "E 2"] | None = None,
    distributed: bool = False,
) -> Places:
    """The places of given candidates: how many others score higher, and how many score the same.

    Args:
        queries: The queries; scores are computed on their device.
        pool: The candidates.
        query_index: The query of each given candidate.
        rows: The given candidates, as rows of the pool.
        inverse_norms: One over each candidate's length, to rank by cosine if the pool is not normalized.
        removed: Pairs (query, row) of candidates that do not count for a query.
        distributed: Whether each process scans only a slice of the pool; all must pass the same queries and pairs.

    Raises:
        ValueError: If a score is nan.

    >>> pool = torch.tensor([[0.0, 1.0], [3.0, 4.0], [1.0, 0.0], [1.0, 9.0]])
    >>> places(torch.tensor([[2.0, 0.0]]), pool, torch.tensor([0, 0]), torch.tensor([1, 3]))
    Places(above=tensor([0., 1.], dtype=torch.float64), tied=tensor([0., 1.], dtype=torch.float64))
    """
    given = {"inverse_norms": inverse_norms, "removed": removed, "distributed": distributed}
    return search(queries, pool, query_index=query_index, ranked=rows, **given).places


def search(
    queries: Float[Tensor, "Q D"],
    pool: AnyPool,
    *,
    k: int = 0,
    query_index: Int[Tensor, " R"] | None = None,
    ranked: Int[Tensor, " R"] | None = None,
    inverse_norms: Float[Tensor, " N"] | None = None,
    removed: Int[Tensor, "E 2"] | None = None,
    distributed: bool = False,
) -> Found:
    """Both `top_k` and `places`, from the same scan."""
    with torch.no_grad(), full_precision(queries.device):
        return _search(queries, as_pool(pool), k, query_index, ranked, inverse_norms, removed, distributed)


def _search(
    queries: Float[Tensor, "Q D"],
    pool: Pool,
    k: int,
    query_index: Int[Tensor, " R"] | None,
    ranked: Int[Tensor, " R"] | None,
    inverse_norms: Float[Tensor, " N"] | None,
    removed: Int[Tensor, "E 2"] | None,
    distributed: bool,
) -> Found:
    scan = _Scan(queries, pool, inverse_norms, removed, distributed)
    none = torch.empty(0, dtype=torch.int64)
    best = Best(len(queries), min(k, scan.num_candidates), queries.device)
    ranks = Ranks(none if query_index is None else query_index, none if ranked is None else ranked, queries.device)
    if len(ranks.rows) and not 0 <= int(ranks.rows.min()) <= int(ranks.rows.max()) < scan.num_candidates:
        raise ValueError(f"rows to rank must be from 0 to {scan.num_candidates - 1}")
    for chunk in scan.chunks:
        for pairs in ranks.pairs(chunk, scan.start, scan.stop).split(scan.size):
            if len(pairs):
                ranks.scores[pairs] = scan.score_pairs(chunk, ranks.query[pairs], ranks.rows[pairs])
    if distributed:
        dist.all_reduce(ranks.scores)
    for chunk, first, scores in scan.tiles():
        best.add(chunk, first, scores)
        ranks.add(chunk, first, scores)
    if distributed:
        best.share()
        dist.all_reduce(ranks.counts)
    return Found(*best.found(), ranks.found(scan.num_candidates))


@torch.no_grad()
def inverse_norms(pool: AnyPool) -> Float[Tensor, " N"]:
    """One over each candidate's length; 0 for a vector of zeros.

    >>> inverse_norms(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([0.2000, 0.0000])
    """
    blocks = as_pool(pool).blocks(size=4096)
    norms = torch.cat([torch.linalg.vector_norm(block, dim=1, dtype=torch.float32) for block in blocks])
    return torch.where(norms > 0, 1 / norms, 0)


class _Scan:
    """One pass of queries over a pool, or over this process's slice of it."""

    def __init__(
        self,
        queries: Float[Tensor, "Q D"],
        pool: Pool,
        inverse_norms: Float[Tensor, " N"] | None,
        removed: Int[Tensor, "E 2"] | None,
        distributed: bool,
    ) -> None:
        self.num_candidates, self._pool = pool.num_candidates, pool
        process, num_processes = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
        # The rows that PyTorch's Shard(0) gives to a process, so that it can scan its own shard of a table.
        share = -(-self.num_candidates // num_processes)
        self.start, self.stop = (min(self.num_candidates, share * place) for place in (process, process + 1))
        self.size = _block_size(queries, self.stop - self.start)
        self.chunks = [slice(i, min(i + _CHUNK, len(queries))) for i in range(0, len(queries), _CHUNK)]
        self._scorer = Scorer(queries, pool.dtype, self.size)
        self._device = queries.device
        self._norms = None if inverse_norms is None else inverse_norms.to(self._device)
        removed = queries.new_empty(0, 2, dtype=torch.int64) if removed is None else removed.to(self._device)
        removed = removed[removed[:, 1].argsort()]
        self._removed = [(at := (removed[:, 0] // _CHUNK == i), removed[at])[1] for i in range(len(self.chunks))]
        self._removed_rows = [pairs[:, 1].cpu().contiguous() for pairs in self._removed]

    def score_pairs(self, chunk: slice, query: Int[Tensor, " r"], rows: Int[Tensor, " r"]) -> Float[Tensor, " r"]:
        """The scores of these candidates, each for one query of the chunk."""
        scores = self._scorer.score(chunk, self._scorer.load(self._pool.features(rows)))
        rows, query = rows.to(self._device), query.to(self._device) - chunk.start
        scores = scores[query, torch.arange(len(rows), device=self._device)]
        return scores if self._norms is None else scores * self._norms[rows]

    def tiles(self) -> Iterator[tuple[slice, int, Float[Tensor, "q n"]]]:
        """Yield a chunk of queries, the first row of a block, and their scores; -inf for removed candidates."""
        first = self.start
        for block in self._pool.blocks(self.start, self.stop, self.size):
            loaded, stop = self._scorer.load(block), first + len(block)
            for place, chunk in enumerate(self.chunks):
                scores = self._scorer.score(chunk, loaded)[:, : len(block)]
                if self._norms is not None:
                    scores *= self._norms[first:stop]
                bounds = torch.searchsorted(self._removed_rows[place], torch.tensor([first, stop])).tolist()
                if bounds[0] < bounds[1]:
                    query, row = self._removed[place][slice(*bounds)].unbind(dim=1)
                    scores[query - chunk.start, row - first] = -torch.inf
                yield chunk, first, scores
            first = stop


class _Tensors:
    """Concatenated tensors as a pool."""

    def __init__(self, parts: Sequence[Float[Tensor, "_ D"]]) -> None:
        self._parts, self.dtype = parts, parts[0].dtype
        self._starts = torch.tensor([0, *itertools.accumulate(map(len, parts))])
        self.num_candidates = int(self._starts[-1])

    def blocks(self, start: int = 0, stop: int | None = None, size: int = 65536) -> Iterator[Float[Tensor, "n D"]]:
        stop = self.num_candidates if stop is None else stop
        for part, first in zip(self._parts, self._starts.tolist(), strict=False):
            if inside := part[max(0, start - first) : max(0, stop - first)].split(size):
                yield from (block for block in inside if len(block))

    def features(self, rows: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        part = torch.searchsorted(self._starts, rows, right=True) - 1
        found = self._parts[0].new_empty(len(rows), self._parts[0].shape[1])
        for place in part.unique().tolist():
            found[part == place] = self._parts[place][rows[part == place] - self._starts[place]]
        return found


class WatchedPool:
    """A pool that reports how much of it is read.

    Args:
        pool: The pool to read.
        report: Called with the number of candidates of each block.
    """

    def __init__(self, pool: AnyPool, report: Callable[[int], None]) -> None:
        self._pool, self._report = as_pool(pool), report
        self.num_candidates, self.dtype, self.features = (
            self._pool.num_candidates,
            self._pool.dtype,
            self._pool.features,
        )

    def blocks(self, start: int = 0, stop: int | None = None, size: int = 65536) -> Iterator[Float[Tensor, "n D"]]:
        """Yield the vectors in the order of their rows; report each block when the next one is requested."""
        for block in self._pool.blocks(start, stop, size):
            yield block
            self._report(len(block))


def as_pool(pool: AnyPool) -> Pool:
    """Return a pool as it is; turn tensors into a pool."""
    tensors = [pool] if isinstance(pool, Tensor) else pool
    return _Tensors(tensors) if isinstance(tensors, Sequence) else tensors


def _block_size(queries: Float[Tensor, "Q D"], num_candidates: int) -> int:
    """The number of rows whose vectors and scores fill a CPU's cache, or a share of a GPU's memory."""
    num_queries, feature_dim = min(len(queries), _CHUNK), queries.shape[1]
    on_cpu = queries.device.type == "cpu"
    size = (_CACHED if on_cpu else _MEMORY) // max(1, num_queries)
    size = min(size, 4 * (_CACHED if on_cpu else _MEMORY) // feature_dim)
    return max(1, min(num_candidates, max(256, 1 << size.bit_length() - 1)))
