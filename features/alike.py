"""Alike candidates: those of a group that a ranker cannot tell apart, though one is right and the other is not."""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from ranking.group_store import GroupStore

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
        """Count them; all vectors are read."""
        alike = labelled = 0
        for first in range(0, store.num_groups, _GROUPS):
            offsets = store.offsets[first : first + _GROUPS + 1].tolist()
            start, end = offsets[0], offsets[-1]
            vectors = store.candidate_features(store.candidate[start:end]).float().flatten(1).numpy()
            _, same = np.unique(vectors, axis=0, return_inverse=True)
            codes, labels = same.reshape(-1).tolist(), store.label[start:end].tolist()
            for one, other in itertools.pairwise(offsets):
                part = slice(one - start, other - start)
                pairs = zip(codes[part], labels[part], strict=True)
                given = [(code, label) for code, label in pairs if not math.isnan(label)]
                if len({label for _, label in given}) > 1:
                    labelled += 1
                    alike += len(set(given)) > len({code for code, _ in given})
        return cls(alike, labelled)
