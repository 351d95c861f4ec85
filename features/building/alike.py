"""Alike candidates: candidates of a group with equal vectors but different labels, which no ranker can separate."""

import itertools
import math
from dataclasses import dataclass

import torch

from console.progress import WorkProgress
from ranking.stores.group_store import GroupStore

_GROUPS = 128


@dataclass(frozen=True)
class Alike:
    """Counts of groups with alike candidates in a store.

    Args:
        num_groups: Number of groups where two candidates with different labels have the same vector.
        num_labelled: Number of groups with different labels.
    """

    num_groups: int
    num_labelled: int

    @classmethod
    def of(cls, store: GroupStore) -> "Alike":
        """Count alike candidates; read the vectors of all groups with different labels."""
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
    """The labels of a group by slot, without missing labels."""
    labels = enumerate(store.label[start:end].tolist(), start=start)
    return {slot: label for slot, label in labels if not math.isnan(label)}


def _num_alike(store: GroupStore, groups: list[dict[int, float]]) -> int:
    """The number of these groups where one vector has two labels."""
    slots = torch.tensor([slot for group in groups for slot in group], dtype=torch.long)
    if not len(slots):
        return 0
    # -0.0 and 0.0 are equal but have different bytes; adding 0.0 makes both 0.0.
    vectors = store.candidate_features(store.candidate[slots]).float().flatten(1).numpy() + 0.0
    rows = iter(vectors)
    count = 0
    for group in groups:
        given = {(next(rows).tobytes(), label) for label in group.values()}
        count += len(given) > len({vector for vector, _ in given})
    return count
