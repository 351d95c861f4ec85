"""Workload: the size of a synthetic store and of the training on it."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ranking.stores.group_store_writer import GroupStoreWriter

_SHARD_BYTES = 1 << 25
_EVALUATED = 4


@dataclass(frozen=True)
class Workload:
    """The amount of training data, and the size of batches.

    Args:
        num_queries: Number of training queries; a few more are for validation and test.
        num_responses: Number of stored candidates for each query; queries share none.
        feature_dim: Size of the vectors, which are fp16.
        num_candidates: K, the number of candidates in a group.
        groups_per_query: Number of groups drawn for each query in the one epoch.
        batch_size: Number of groups in a step.
    """

    num_queries: int = 374
    num_responses: int = 100
    feature_dim: int = 4096
    num_candidates: int = 10
    groups_per_query: int = 100
    batch_size: int = 1024


MBPP = Workload()
TINY = Workload(12, 20, 32, num_candidates=5, groups_per_query=10, batch_size=32)


def write_store(workload: Workload, folder: Path) -> Path:
    """Write a store of random vectors and labels, or reuse that of an earlier call."""
    path = folder / f"{workload.num_queries}x{workload.num_responses}x{workload.feature_dim}"
    if path.exists():
        return path
    draw = torch.Generator().manual_seed(0)
    groups, dim = workload.num_queries + 2 * _EVALUATED, workload.feature_dim
    rows, at_once = groups * workload.num_responses, _SHARD_BYTES // (2 * dim)
    with GroupStoreWriter(path, feature_dim=dim, depths=[0.6], dtype="float16", settings={}) as writer:
        for first in range(writer.num_candidates, rows, at_once):
            count = min(at_once, rows - first)
            writer.add_candidates(
                torch.randn(count, 1, dim, generator=draw), [f"response {first + i}" for i in range(count)]
            )
        writer.add_groups(
            ids=[f"q{group}" for group in range(groups)],
            texts=[f"query {group}" for group in range(groups)],
            features=torch.randn(groups, 1, dim, generator=draw),
            offsets=torch.arange(0, rows + 1, workload.num_responses),
            candidate=torch.arange(rows),
            label=torch.randint(0, 2, (rows,), generator=draw).float(),
            slot_ids=[f"r{row}" for row in range(rows)],
            split=["train"] * workload.num_queries + ["val"] * _EVALUATED + ["test"] * _EVALUATED,
        )
        return writer.finish()
