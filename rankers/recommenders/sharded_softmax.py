"""Sharded softmax: the cross-entropy over all items, of which each process holds its own rows."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.tensor import DTensor

from rankers.recommenders.full_softmax import block_size
from rankers.recommenders.sharding import Shards


def sharded_softmax_loss(states: Float[Tensor, "R E"], items: DTensor, targets: Int[Tensor, " R"]) -> Float[Tensor, ""]:
    """`full_softmax_loss` of this process's states, over the items of all processes.

    Each process scores the states of all processes with its own items; maxima and sums of the scores' exponentials are
    combined. All processes must call this, and give their losses the same weight.

    Args:
        states: The states of this process; other processes may have more or fewer.
        items: The table of all items, [N, E], of which this process holds its own rows.
        targets: The row of each state's right item, of all N.
    """
    return _ShardedSoftmax.apply(states, items.to_local(), targets, Shards(items))  # type: ignore[return-value]


class _ShardedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, items: Tensor, targets: Tensor, shards: Shards) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            items, group = items.float(), shards.group
            counts = _gathered(targets.new_tensor([len(targets)]), shards).flatten().tolist()
            states, targets = (_of_all(each, counts, shards) for each in (states.detach().float(), targets))
            by_state, by_item = torch.empty_like(states), torch.zeros_like(items)
            local = targets - shards.first
            is_own = (local >= 0) & (local < len(items))
            local, losses = local.clamp(0, max(0, len(items) - 1)), states.new_zeros(len(states))
            # As many blocks in each process, whatever the number of its items.
            size = block_size(shards.size, states.device)
            for start in range(0, len(states), size):
                block = slice(start, start + size)
                some, right, own = states[block], local[block].unsqueeze(1), is_own[block].unsqueeze(1)
                scores = some @ items.T
                sums, highest = torch.zeros_like(some[:, :1]), torch.full_like(some[:, :1], -torch.inf)
                if len(items):
                    highest = scores.amax(dim=1, keepdim=True)
                    losses[block] -= (scores.gather(1, right) * own).squeeze(1)
                    scores = scores.sub_(highest).exp_()
                    sums = scores.sum(dim=1, keepdim=True)
                logarithms = _gathered(highest + sums.log(), shards)
                whole = logarithms.logsumexp(dim=0)
                if shards.rank == 0:
                    losses[block] += whole.squeeze(1)
                if len(items):
                    scores *= (highest - whole).exp()
                    scores.scatter_add_(1, right, -own.to(scores.dtype))
                by_state[block] = scores @ items
                by_item.addmm_(scores.T, some)
            for each in (losses, by_state):
                dist.all_reduce(each, group=group)
            first = sum(counts[: shards.rank])
            mine = slice(first, first + counts[shards.rank])
        ctx.save_for_backward(by_state[mine], by_item.div_(shards.world))
        return losses[mine].sum()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        by_state, by_item = ctx.saved_tensors
        return outer * by_state, outer * by_item, None, None


def _gathered(values: Tensor, shards: Shards) -> Tensor:
    """The values of all processes, which have the same shape, along a new first dimension."""
    found = [torch.empty_like(values) for _ in range(shards.world)]
    dist.all_gather(found, values.contiguous(), group=shards.group)
    return torch.stack(found)


def _of_all(values: Tensor, counts: list[int], shards: Shards) -> Tensor:
    """The rows of all processes, which have as many as `counts` says."""
    padded = values.new_zeros(max(counts), *values.shape[1:])
    padded[: len(values)] = values
    return torch.cat([each[:count] for each, count in zip(_gathered(padded, shards), counts, strict=True)])
