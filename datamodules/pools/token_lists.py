"""TokenLists: the tokens of many texts, concatenated."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ranking.pools.pool_data import Tokenize

_TEXTS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class TokenLists:
    """The token ids of n texts.

    Args:
        index: The numbers of the texts, ascending: queries or rows of a pool.
        flat: The token ids of all texts, concatenated.
        offsets: Text i has the ids `flat[offsets[i]:offsets[i + 1]]`.
    """

    index: Int[Tensor, " n"]
    flat: Int[Tensor, " T"]
    offsets: Int[Tensor, " n+1"]

    @classmethod
    def read(cls, index: Int[Tensor, " n"], text: Callable[[int], str], tokenize: Tokenize) -> "TokenLists":
        """Tokenize the texts with these numbers."""
        flat, counts = [torch.empty(0, dtype=torch.int32)], [torch.zeros(1, dtype=torch.int64)]
        for part in index.split(_TEXTS_AT_ONCE):
            lists = tokenize([text(each) for each in part.tolist()])
            flat.append(torch.tensor([token for tokens in lists for token in tokens], dtype=torch.int32))
            counts.append(torch.tensor([len(tokens) for tokens in lists], dtype=torch.int64))
        return cls(index, torch.cat(flat), torch.cat(counts).cumsum(0))

    def lengths(self, index: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The number of tokens of these texts."""
        at = torch.searchsorted(self.index, index)
        return self.offsets[at + 1] - self.offsets[at]

    def padded(self, index: Int[Tensor, " B"]) -> tuple[Int[Tensor, "B T"], Int[Tensor, " B"]]:
        """The tokens of these texts, padded with 0 on the right, and the number of tokens of each."""
        lengths = self.lengths(index)
        place = torch.arange(int(lengths.max()) if len(lengths) else 0)
        there = place < lengths.unsqueeze(1)
        tokens = torch.zeros(there.shape, dtype=torch.int64)
        start = self.offsets[torch.searchsorted(self.index, index)]
        tokens[there] = self.flat[(start.unsqueeze(1) + place)[there]].long()
        return tokens, lengths
