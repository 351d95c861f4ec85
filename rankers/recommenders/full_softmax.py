"""Full softmax: the cross-entropy over all items, computed in blocks, with its gradients in the same pass."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_CACHED, _MEMORY = 2**18, 2**25
"""The most scores at once: so many fit a processor's cache, and the memory of a GPU or of a large table's scores."""

_ROWS = 32
"""On a processor, blocks have fewer states only for lack of memory: each one reads the whole table of items."""


def full_softmax_loss(
    states: Float[Tensor, "R E"], items: Float[Tensor, "N E"], targets: Int[Tensor, " R"]
) -> Float[Tensor, ""]:
    """Sum over states of -log softmax(items . state)[target].

    Needs no R x N matrix: each block of scores is turned into gradients and forgotten.

    Example:
        >>> full_softmax_loss(torch.zeros(1, 2), torch.ones(4, 2), torch.tensor([3]))  # ln 4
        tensor(1.3863)
    """
    return _FullSoftmax.apply(states, items, targets)  # type: ignore[return-value]


def block_size(num_items: int, device: torch.device) -> int:
    """How many states' scores of so many items are held at once."""
    size = max(1, _MEMORY // num_items)
    return min(size, max(_ROWS, _CACHED // num_items)) if device.type == "cpu" else size


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            states, items = states.float(), items.float()
            by_state, by_item = torch.empty_like(states), torch.zeros_like(items)
            total = states.new_zeros(())
            size = block_size(len(items), states.device)
            for start in range(0, len(states), size):
                some, right = states[start : start + size], targets[start : start + size].unsqueeze(1)
                scores = some @ items.T
                scores -= scores.amax(dim=1, keepdim=True)
                score = scores.gather(1, right)
                gradient = scores.exp_()  # in place: this is most of the work
                sums = gradient.sum(dim=1, keepdim=True)
                total += (sums.log() - score).sum()
                gradient /= sums
                gradient.scatter_add_(1, right, gradient.new_full(right.shape, -1.0))
                by_state[start : start + size] = gradient @ items
                by_item.addmm_(gradient.T, some)
        ctx.save_for_backward(by_state, by_item)
        return total

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        by_state, by_item = ctx.saved_tensors
        return outer * by_state, outer * by_item, None
