"""Sharding: tables of items and users of which each process holds its own rows, and the other weights in shards.

Process p of W holds rows p * n to (p + 1) * n of a table, with n = ceil(rows / W), as a DTensor. A row that another
process needs is sent to it, and its gradient is sent back; no process ever sees a whole table. Gradients are means over
the processes, as in DDP. All processes must look up rows the same number of times, in the same order.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from registry import ConfigError


class Shards:
    """Where the rows of a table are.

    Args:
        table: A table whose rows are shared out to the processes.
    """

    def __init__(self, table: DTensor) -> None:
        self.group = table.device_mesh.get_group()
        self.rank, self.world = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.num_rows = table.shape[0]
        self.size = -(-self.num_rows // self.world)
        self.first = min(self.num_rows, self.rank * self.size)
        """The first row of this process."""


class ShardedEmbedding(nn.Module):
    """An `nn.Embedding` of which each process holds its own rows.

    Args:
        embedding: The whole table, the same in each process.
        mesh: The processes.
    """

    def __init__(self, embedding: nn.Embedding, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight = _own_rows(embedding.weight, mesh)

    def forward(self, rows: Int[Tensor, "*B"]) -> Float[Tensor, "*B E"]:
        """The vectors of these rows."""
        return rows_of(cast("DTensor", self.weight), rows)


class OwnRows:
    """The rows of a sharded table that this process holds, as its slice of a pool to rank.

    Args:
        table: The table.
        lists: Whether queries rank lists of their own, which can have any rows; all processes ask for the same ones.
    """

    def __init__(self, table: DTensor, *, lists: bool) -> None:
        self._table, self._lists, self._first = table, lists, Shards(table).first
        self._own = table.to_local()
        self.num_candidates, self.dtype = table.shape[0], table.dtype

    def blocks(self, start: int = 0, stop: int | None = None, size: int = 65536) -> Iterator[Float[Tensor, "n E"]]:
        """The vectors of this process's rows from `start` to `stop`, in order."""
        own = self._own[start - self._first : (self.num_candidates if stop is None else stop) - self._first]
        yield from (block for block in own.split(size) if len(block))

    def features(self, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"]:
        """The vectors of these rows."""
        rows = rows.to(self._own.device)
        if self._lists:
            return rows_of(self._table, rows)
        local = rows - self._first
        assert bool(((local >= 0) & (local < len(self._own))).all()), "another process holds some of these rows"
        return self._own[local]


def shard(ranker: nn.Module, mesh: DeviceMesh, num_items: int) -> None:
    """Give each process its rows of all embeddings and of parameters with a row for each item, and shards of the rest.

    Args:
        ranker: The ranker, the same in each process; its modules are changed.
        mesh: The processes.
        num_items: Number of items in the pool.

    Raises:
        ConfigError: If a parameter has no row for each item and is not in a module that can be called.
    """
    for name, weight in list(ranker.named_parameters(recurse=False)):
        if weight.shape[:1] != (num_items,):
            problem = f"the weight {name} of {type(ranker).__name__} can be in no shard: it has no row for each item."
            raise ConfigError("trainer.strategy", problem, given="fsdp2", cure="a module around it, or ddp")
        setattr(ranker, name, _own_rows(weight, mesh))
    for name, module in list(ranker.named_children()):
        if isinstance(module, nn.Embedding):
            setattr(ranker, name, ShardedEmbedding(module, mesh))
        elif isinstance(module, nn.ModuleList | nn.ModuleDict) or any(
            isinstance(each, nn.Embedding) for each in module.modules()
        ):
            shard(module, mesh, num_items)
        elif any(True for _ in module.parameters()):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)


def rows_of(table: DTensor, rows: Int[Tensor, "*B"]) -> Shaped[Tensor, "..."]:
    """Rows of a table, of this process or of others."""
    once, place = rows.unique(return_inverse=True)
    return _Rows.apply(table.to_local(), once, Shards(table))[place]  # type: ignore[index]


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: Tensor, shards: Shards) -> Tensor:
        asked = torch.bincount(rows // shards.size, minlength=shards.world)
        wanted = torch.empty_like(asked)
        dist.all_to_all_single(wanted, asked, group=shards.group)
        counts = wanted.tolist(), asked.tolist()
        for_others = rows.new_empty(sum(counts[0]))
        dist.all_to_all_single(for_others, rows, *counts, group=shards.group)
        for_others -= shards.first
        found = own.new_empty(len(rows), *own.shape[1:])
        dist.all_to_all_single(found, own[for_others], *reversed(counts), group=shards.group)
        ctx.save_for_backward(for_others)
        ctx.shape, ctx.counts, ctx.shards = own.shape, counts, shards
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (rows,) = ctx.saved_tensors
        of_others = gradient.new_empty(len(rows), *gradient.shape[1:])
        dist.all_to_all_single(of_others, gradient.contiguous(), *ctx.counts, group=ctx.shards.group)
        whole = gradient.new_zeros(ctx.shape).index_add_(0, rows, of_others.div_(ctx.shards.world))
        return whole, None, None


def _own_rows(weight: Tensor, mesh: DeviceMesh) -> nn.Parameter:
    """The rows of this process, without the memory of the others."""
    world, rank = mesh.size(), mesh.get_local_rank()
    size = -(-len(weight) // world)
    own = weight.detach()[rank * size : (rank + 1) * size].clone()
    table = DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=weight.shape, stride=weight.stride())
    return nn.Parameter(table, requires_grad=weight.requires_grad)
