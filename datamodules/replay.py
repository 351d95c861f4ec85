"""Replay: puts groups of an old store into each training batch, so that a ranker does not forget them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datamodules.group_batches import TrainingBatches
from ranking.batch import Batch
from registry.ranges import Dropout, FilePath


@dataclass(frozen=True)
class Replay:
    """Groups of an old store beside the new ones (rehearsal, Robins 1995).

    Args:
        path: The old store; a run that starts from a ranker also judges it on this store's validation and test.
        share: The share of the groups of each training batch that are old; 0 only to judge.
    """

    path: FilePath
    share: Dropout = 0.5


class ReplayedBatches:
    """New batches, each with a batch of old groups added, as a function of only (epoch, step).

    An epoch draws the new groups once. The old batches follow each other across epochs, so that all old groups have
    their turn, however few steps an epoch has.

    Args:
        new: Makes the new groups of each step.
        old: Makes the old groups of each step.
    """

    def __init__(self, new: TrainingBatches, old: TrainingBatches) -> None:
        self._new, self._old = new, old

    def num_steps(self) -> int:
        """The number of steps per epoch."""
        return self._new.num_steps()

    def batch(self, epoch: int, step: int) -> Batch:
        """The new groups of a step, then the old ones; these have numbers that follow those of the new store."""
        new = self._new.batch(epoch, step)
        old = self._old.batch(*divmod(epoch * self.num_steps() + step, self._old.num_steps()))
        full = self._new.full_size, self._old.full_size
        weight = (new.weight * full[0] + old.weight * full[1]) / sum(full)
        store = self._new.store
        moved = {
            "group": old.group + store.num_groups,
            "slot": torch.where(old.slot < 0, -1, old.slot + store.num_slots),
        }
        return dataclasses.replace(joined(new, dataclasses.replace(old, **moved)), weight=weight)


def joined(first: Batch, second: Batch) -> Batch:
    """One batch of the groups of two, padded to the larger K.

    Args:
        first: Any batch of groups.
        second: Another one of the same type; its tables are put behind those of the first.
    """
    num_candidates = max(first.mask.shape[1], second.mask.shape[1])
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, list):
            changed[field.name] = _longer_rows(one, num_candidates) + _longer_rows(other, num_candidates)
        elif isinstance(one, Tensor) and other is None:
            changed[field.name] = None  # what only one of the stores knows
        elif isinstance(one, Tensor):
            if field.name in _TABLES:
                other = other + len(getattr(first, _TABLES[field.name]))
            if one.shape[:2] == first.mask.shape and field.name not in _TABLES.values():
                fill = -1 if field.name == "slot" else 0
                one, other = (_wider(each, num_candidates, fill) for each in (one, other))
            changed[field.name] = torch.cat([one, other])
    return dataclasses.replace(first, **changed)


_TABLES = {"query_index": "unique_queries", "candidate_index": "unique_candidates"}
"""The table that each column of rows points into."""


def _wider(tensor: Tensor, num_candidates: int, fill: int) -> Tensor:
    missing = tensor.new_full((len(tensor), num_candidates - tensor.shape[1], *tensor.shape[2:]), fill)
    return torch.cat([tensor, missing], dim=1)


def _longer_rows(texts: list[Any], num_candidates: int) -> list[Any]:
    """The rows of candidates with empty texts behind; a list of queries as it is."""
    return [row + [""] * (num_candidates - len(row)) if isinstance(row, list) else row for row in texts]
