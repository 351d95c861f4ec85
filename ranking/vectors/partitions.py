"""Partitions: several random splits of a pool into disjoint parts of equal size (LRanker, Eq. 11)."""

import torch
from jaxtyping import Int
from torch import Tensor

from ranking.vectors.permutation import Permutation


class Partitions:
    """`num_splits` ways to split N candidates into `num_partitions` parts; equal arguments give equal splits.

    Split s puts the candidates in a random order and cuts it into parts whose sizes differ by at most one.

    Args:
        num_candidates: N, the number of candidates.
        num_partitions: Number of parts of a split.
        num_splits: Number of independent splits.
        seed: Seed of all splits.

    Raises:
        ValueError: If there are more parts than candidates, or a number is below 1.
    """

    def __init__(self, num_candidates: int, num_partitions: int, num_splits: int, seed: int) -> None:
        if not 1 <= num_partitions <= num_candidates or num_splits < 1:
            problem = f"{num_candidates} candidates cannot be split into {num_partitions} parts"
            raise ValueError(f"{problem}, {num_splits} times")
        self.num_candidates, self.num_partitions = num_candidates, num_partitions
        self.num_splits, self.seed = num_splits, seed
        self._orders = [Permutation(num_candidates, hash((seed, split)) % 2**63) for split in range(num_splits)]

    def __len__(self) -> int:
        """Total number of parts of all splits."""
        return self.num_splits * self.num_partitions

    def index(self, split: int, part: int) -> int:
        """The number of a part among all parts of all splits."""
        return split * self.num_partitions + part

    def bounds(self, part: int) -> tuple[int, int]:
        """The range of a part's places in the order of any split: from the first up to, not including, the second."""
        return part * self.num_candidates // self.num_partitions, (
            (part + 1) * self.num_candidates // self.num_partitions
        )

    def rows(self, split: int, part: int) -> Int[Tensor, " n"]:
        """The rows of the candidates in one part, ascending."""
        return self.rows_at(split, torch.arange(*self.bounds(part))).sort().values

    def parts(self, split: int, rows: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The part of each of these candidates."""
        # The largest part whose first place, floor(part * N / P), is not above the place.
        return ((self.places(split, rows) + 1) * self.num_partitions - 1) // self.num_candidates

    def places(self, split: int, rows: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The places of these candidates in the order of a split."""
        return self._orders[split](rows)

    def rows_at(self, split: int, places: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The candidates at these places in the order of a split."""
        return self._orders[split].inverse(places)
