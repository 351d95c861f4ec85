"""Projection: projects each vector once per batch, against once for every group that has it."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.comparison import Comparison, Ratio, in_turns, seconds_of
from benchmarks.speed.training.workload import MBPP, Workload, write_store
from datamodules.drawing import draw_slots
from ranking.stores.group_store import GroupStore

SIZES = (10, 32)
QUERIES_OF = {"random": None, "repeating": 32}


def measure(data: Path, workload: Workload = MBPP, repeats: int = 9) -> Comparison:
    """Gather, project and backpropagate one batch in both ways, for random batches and for repeating queries.

    Args:
        data: Folder for the store.
        workload: The size of the store; K is 10, then 32.
        repeats: How often each way runs.

    Raises:
        AssertionError: If the two ways give different gradients.
    """
    store = GroupStore.open(write_store(workload, data))
    weight = torch.nn.Parameter(torch.randn(64, workload.feature_dim) / workload.feature_dim**0.5)
    ways, works, ratios, shares = {}, {}, [], {}
    for size in (min(size, workload.num_responses) for size in SIZES):
        for kind, num_queries in QUERIES_OF.items():
            slots = _draw(store, workload, size, min(num_queries or workload.num_queries, workload.num_queries))
            once, each = f"each row, {kind}, K = {size}", f"each slot, {kind}, K = {size}"
            works |= {
                once: partial(project_rows, store, weight, slots),
                each: partial(project_slots, store, weight, slots),
            }
            torch.testing.assert_close(
                _gradient(weight, works[once]), _gradient(weight, works[each]), rtol=1e-3, atol=1e-3
            )
            queries = f"{num_queries or 'all'} queries"
            ways |= {once: f"unique rows of a batch of {queries}, projected, then looked up"}
            ways |= {each: f"all slots of a batch of {queries}, projected"}
            ratios.append(Ratio(each, once))
            shares[f"{kind}, K = {size}"] = len(slots.unique()) / slots.numel()
    turns = {name: partial(seconds_of, partial(_gradient, weight, work)) for name, work in works.items()}
    facts = {"workload": asdict(workload), "unique_share_of_slots": shares}
    question = "does projecting a vector once a batch pay?"
    return Comparison("projection", question, ways, in_turns(turns, repeats), ratios, facts)


def project_rows(store: GroupStore, weight: Tensor, slots: Int[Tensor, "B K"]) -> Float[Tensor, "B K d"]:
    """Gather and project each vector once, then look it up for every slot."""
    rows, index = store.candidate[slots].unique(return_inverse=True)
    return (store.candidate_features(rows).float() @ weight.T)[index]


def project_slots(store: GroupStore, weight: Tensor, slots: Int[Tensor, "B K"]) -> Float[Tensor, "B K d"]:
    """Gather and project the vector of every slot."""
    vectors = store.candidate_features(store.candidate[slots].flatten())
    return (vectors.float() @ weight.T).unflatten(0, tuple(slots.shape))


def _draw(store: GroupStore, workload: Workload, num_candidates: int, num_queries: int) -> Int[Tensor, "B K"]:
    draw = torch.Generator().manual_seed(0)
    groups = torch.randint(num_queries, (workload.batch_size,), generator=draw)
    return draw_slots(store.offsets, groups, num_candidates, draw)


def _gradient(weight: Tensor, work: Callable[[], Tensor]) -> Tensor:
    weight.grad = None
    work().square().mean().backward()
    assert weight.grad is not None
    return weight.grad
