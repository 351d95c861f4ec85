"""Alike candidates: those of a group that a ranker cannot tell apart, though one is right and the other is not."""

import itertools
import math
from dataclasses import dataclass

import torch

from console.progress import WorkProgress
from ranking.stores.group_store import GroupStore

_GROUPS = 128


@dataclass(frozen=True)
class Alike:
    """What a store has of them.

    Args:
        num_groups: Groups in which two candidates of different labels have the same vector.
        num_labelled: Groups that have different labels at all.
    """

    num_groups: int
    num_labelled: int

    @classmethod
    def of(cls, store: GroupStore) -> "Alike":
        """Count them; the vectors of groups with different labels are read."""
        alike = labelled = 0
        with WorkProgress(store.num_groups, doing="Comparing", done="Compared", unit="groups", brief=True) as progress:
            for first in range(0, store.num_groups, _GROUPS):
                offsets = store.offsets[first : first + _GROUPS + 1].tolist()
                given = (_given(store, *span) for span in itertools.pairwise(offsets))
                groups = [group for group in given if len(set(group.values())) > 1]
                labelled += len(groups)
                alike += _num_alike(store, groups)
                progress.report(len(offsets) - 1)
        return cls(alike, labelled)


def _given(store: GroupStore, start: int, end: int) -> dict[int, float]:
    """The labels of a group, by slot; not those that are missing."""
    labels = enumerate(store.label[start:end].tolist(), start=start)
    return {slot: label for slot, label in labels if not math.isnan(label)}


def _num_alike(store: GroupStore, groups: list[dict[int, float]]) -> int:
    """In how many of these groups one vector has two labels."""
    slots = torch.tensor([slot for group in groups for slot in group], dtype=torch.long)
    if not len(slots):
        return 0
    # -0.0 equals 0.0, in other bytes; the sum is 0.0.
    vectors = store.candidate_features(store.candidate[slots]).float().flatten(1).numpy() + 0.0
    rows = iter(vectors)
    count = 0
    for group in groups:
        given = {(next(rows).tobytes(), label) for label in group.values()}
        count += len(given) > len({vector for vector, _ in given})
    return count
