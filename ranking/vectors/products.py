"""Products: fp32 inner products of queries with blocks of stored vectors, by the fastest exact kernel."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# MKL runs at half speed on CPUs that are not Intel's, and adds in an order that depends on the shapes.
_ONEDNN = (
    torch.ops.mkldnn._linear_pointwise
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    else None
)
# Since PyTorch 2.13, oneDNN adds in the same order for all shapes; before, it did not on AVX2 CPUs.
_ONEDNN_KEEPS_ORDER = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 13)
_WITH_OUT_DTYPE = "dtype" in torch.ops.aten.mm.overloads()
_COLUMNS = 64  # blocks with a multiple of this many vectors have no remainder, which kernels treat differently
_PARTS = {torch.float16: 2, torch.bfloat16: 3}


def products(
    left: Float[Tensor, "M D"], right: Float[Tensor, "N D"], bias: Float[Tensor, " N"] | None = None
) -> Float[Tensor, "M N"]:
    """`left` times `right` transposed, both in fp32.

    >>> products(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([[11.,  2.]])
    """
    if _ONEDNN is not None and left.device.type == "cpu":
        return _ONEDNN(left, right, bias, "none", [], "")
    return F.linear(left, right, bias)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute fp32 products in full fp32, whatever autocast or the matmul precision is set to outside."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class Scorer:
    """Inner products of fixed queries with one block of vectors after another.

    Equal vectors get equal products, in every position and block. oneDNN of PyTorch 2.13 or newer adds in the same
    order for all blocks of at least two rows; other kernels do so for matrices of the same shape. So blocks are padded
    to two rows, or to the largest size.

    On CUDA, blocks in half precision are not converted: each query is split into parts of that precision whose sum is
    the query (two of fp16, three of bf16). So the results differ from fp32 only by the order of summation.

    Args:
        queries: The queries, in any precision.
        dtype: Number format of the blocks.
        size: Number of vectors in the largest block.
    """

    def __init__(self, queries: Float[Tensor, "Q D"], dtype: torch.dtype, size: int) -> None:
        self._queries, self._device = queries.float().contiguous(), queries.device
        self._size = -(-size // _COLUMNS) * _COLUMNS
        self._any_shape = queries.device.type == "cpu" and _ONEDNN is not None and _ONEDNN_KEEPS_ORDER
        self._least = 2 if self._any_shape else self._size
        self._split = dtype in _PARTS and _WITH_OUT_DTYPE and queries.device.type == "cuda"
        self._buffer = torch.empty(0)
        if self._split:
            self._scale = self._queries.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
            self._parts = _parts(self._queries / self._scale, dtype)

    def load(self, block: Float[Tensor, "N D"]) -> Float[Tensor, "M D"]:
        """Move and convert a block for `score`; it may reuse the memory of the block before."""
        if self._device.type == block.device.type == "cpu" and block.dtype != torch.float32:
            if not len(self._buffer):
                self._buffer = torch.zeros(self._size, block.shape[1])
            self._buffer[: len(block)].copy_(block)
            return self._buffer[: max(self._least, len(block))]
        block = block.to(self._device, non_blocking=True)
        if len(block) < self._least:
            block = F.pad(block, (0, 0, 0, self._least - len(block)))
        return block if self._split else block.float()

    def score(self, chunk: slice, block: Float[Tensor, "M D"]) -> Float[Tensor, "Q M"]:
        """The products of a chunk of the queries with a loaded block."""
        if not self._split:
            return products(self._queries[chunk], block)
        left = self._parts[:, chunk]
        found = torch.mm(left.flatten(0, 1), block.T, out_dtype=torch.float32).unflatten(0, left.shape[:2])
        total = found[-1]
        for part in reversed(found[:-1]):
            total = part.add_(total)
        return total.mul_(self._scale[chunk])


def _parts(queries: Float[Tensor, "Q D"], dtype: torch.dtype) -> Float[Tensor, "P Q D"]:
    """Split queries with entries from -1 to 1 into parts of lower precision that add up to them, largest first."""
    parts, rest = [], queries
    for _ in range(_PARTS[dtype]):
        parts.append(rest.to(dtype))
        rest = rest - parts[-1].float()
    return torch.stack(parts)
