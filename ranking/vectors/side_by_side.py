"""SideBySide: several vectors per candidate as one, so that a weighted sum of scores is one inner product."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranking.vectors.products import full_precision
from ranking.vectors.search import AnyPool, Pool, as_pool


class SideBySide:
    """The same candidates in several pools: the vector of a candidate is its vectors in all of them, one by one.

    Vectors are joined block by block while a pool is read.

    Args:
        pools: The pools, with equal rows.
        inverse_norms: For each pool, 1 / length of each vector, to use vectors of length 1; None for vectors as they
            are.
        device: Where the joined vectors are needed.
    """

    dtype = torch.float32

    def __init__(
        self, pools: Sequence[Pool], inverse_norms: Sequence[Float[Tensor, " N"] | None], device: torch.device
    ) -> None:
        self._pools, self._device = pools, device
        self._scales = [None if each is None else each.to(device) for each in inverse_norms]
        self.num_candidates = self._pools[0].num_candidates

    def blocks(self, start: int = 0, stop: int | None = None, size: int = 65536) -> Iterator[Float[Tensor, "n D"]]:
        """Yield the joined vectors in the order of their rows."""
        stop = self.num_candidates if stop is None else stop
        for first in range(start, stop, size):
            last = min(first + size, stop)
            parts = [torch.cat([*pool.blocks(first, last, size)]) for pool in self._pools]
            yield self._joined(parts, torch.arange(first, last))

    def features(self, rows: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """The joined vectors of these rows."""
        return self._joined([pool.features(rows) for pool in self._pools], rows)

    def _joined(self, parts: Sequence[Tensor], rows: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        parts = [part.to(self._device).float() for part in parts]
        rows = rows.to(self._device)
        scaled = [
            part if scales is None else part * scales[rows].unsqueeze(1)
            for part, scales in zip(parts, self._scales, strict=True)
        ]
        return torch.cat(scaled, dim=1)


@torch.no_grad()
def covariance(pool: AnyPool, inverse_norms: Float[Tensor, " N"] | None, device: torch.device) -> Float[Tensor, "D D"]:
    """The covariance C of the candidates' vectors, by which a query's scores <v, c> have the variance v^T C v.

    Args:
        pool: The candidates.
        inverse_norms: 1 / length of each vector, to use vectors of length 1; None for vectors as they are.
        device: Where it is computed.

    >>> covariance(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), None, torch.device("cpu"))
    tensor([[1., 0.],
            [0., 0.]])
    """
    vectors = SideBySide([as_pool(pool)], [inverse_norms], device)
    count, shift, total, square = vectors.num_candidates, None, None, None
    with full_precision(device):
        for block in vectors.blocks():
            # The large squares of vectors that are close together would hide in fp32 how little these differ.
            shift = block.mean(dim=0) if shift is None else shift
            block = block - shift
            total = block.double().sum(dim=0) + (0 if total is None else total)
            square = (block.T @ block).double() + (0 if square is None else square)
    assert total is not None and square is not None
    mean = total / count
    return (square / count - mean.outer(mean)).float()
