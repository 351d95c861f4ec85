"""Retrieval: for each query, the candidates of a pool that are nearest to it by cosine."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def top_k(
    queries: Float[Tensor, "Q D"], blocks: Iterable[Float[Tensor, "_ D"]], k: int
) -> tuple[Float[Tensor, "Q K"], Int[Tensor, "Q K"]]:
    """The highest cosines and the candidates they belong to, best first; of equal ones the first candidate leads.

    The candidates come in blocks, and only the scores of one block and the best so far are held. K is the smaller of k
    and the number of candidates. Which of several equal candidates at the cut get in is up to `torch.topk`.

    >>> top_k(torch.tensor([[2.0, 0.0]]), [torch.tensor([[0.0, 1.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0]])], k=2)
    (tensor([[1.0000, 0.6000]]), tensor([[2, 1]]))
    """
    unit = nn.functional.normalize(queries.float(), dim=-1)
    scores, rows = unit.new_empty(len(unit), 0), torch.empty(len(unit), 0, dtype=torch.int64, device=unit.device)
    start = 0
    for block in blocks:
        fresh = unit @ nn.functional.normalize(block.float(), dim=-1).T
        places = fresh.topk(min(k, len(block)), dim=1).indices.sort(dim=1).values
        scores, rows = torch.cat([scores, fresh.gather(1, places)], dim=1), torch.cat([rows, places + start], dim=1)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        scores, rows = scores.gather(1, order), rows.gather(1, order)
        start += len(block)
    return scores, rows
