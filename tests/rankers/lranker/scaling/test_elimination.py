import random

import pytest
import torch
from torch import Tensor

from rankers.lranker.scaling import elimination
from rankers.lranker.scaling.elimination import Elimination

N, D, B = 300, 12, 5


def drawn() -> tuple[Tensor, Tensor]:
    """Candidates and queries."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(N, D, generator=draw), torch.randn(B, D, generator=draw)


def hashed(row: int, seed: int, step: int) -> int:
    """The place of a row in the random order of a step."""
    bits = row ^ random.Random(f"{seed} {step}").getrandbits(32)
    for _ in range(2):
        bits = ((bits ^ (bits >> 16)) * 0x45D9F3B) % 2**32
    return bits ^ (bits >> 16)


def test_of_equal_candidates_the_first_in_random_order_stay() -> None:
    vectors = torch.ones(N, D)  # all scores are equal: which rows stay is up to the order
    eliminated = Elimination(vectors, torch.device("cpu"), keep=0.5, limit=N, seed=0)
    order = sorted(range(N), key=lambda row: hashed(row, 0, 0))
    assert eliminated.first(drawn()[1], [2])[2][3].tolist() == [order[:75], order[150:225]]


def test_parts_are_disjoint_and_near_equal_and_another_at_each_step() -> None:
    vectors, queries = drawn()
    eliminated = Elimination(vectors, torch.device("cpu"), keep=1.0, limit=2 * N, seed=0)
    first = eliminated.first(queries, [7])[7]
    second = eliminated.next(torch.randn(B, D), first, 7, step=1)
    for rows in (first, second):
        sizes = (rows >= 0).sum(dim=2)
        assert (sizes.max() - sizes.min()) <= 1
        assert all(sorted(row for row in of.flatten().tolist() if row >= 0) == list(range(N)) for of in rows)
    shared = len({*first[0, 0].tolist()} & {*second[0, 0].tolist()} - {-1})
    assert shared < 20  # 6 of 43 by chance


def test_what_is_kept_is_rounded_up_and_never_more_than_a_part_s_share_of_the_limit() -> None:
    vectors, queries = drawn()
    for keep, limit, width, sizes in (
        (0.1, N, 10, [3] * 10),  # 0.1 * 30 is a little more than 3 in floating point
        (0.5, N, 7, [22, 22, 22, 22, 22, 22, 21]),
        (0.5, 40, 7, [5] * 7),
        (0.5, 3, 7, [1] * 7),
        (1e-12, N, 2, [1, 1]),
    ):
        eliminated = Elimination(vectors, torch.device("cpu"), keep=keep, limit=limit, seed=0)
        kept = (eliminated.first(queries, [width])[width] >= 0).sum(dim=2)
        assert kept.tolist() == [sizes] * B


def test_the_best_of_each_part_stay_best_first() -> None:
    vectors, queries = drawn()
    eliminated = Elimination(vectors, torch.device("cpu"), keep=0.5, limit=N, seed=3)
    order = sorted(range(N), key=lambda row: hashed(row, 3, 0))
    for query, parts in enumerate(eliminated.first(queries, [3])[3].tolist()):
        for number, part in enumerate(parts):
            scores = {
                row: float(vectors[row].double() @ queries[query].double()) for row in order[number * 100 :][:100]
            }
            assert part == sorted(scores, key=lambda row: -scores[row])[:50]


def test_memory_does_not_change_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = drawn()
    removed = torch.tensor([[0, 7], [4, 9], [4, 250]])
    found = []
    for size in (1 << 30, 3000):
        monkeypatch.setattr(elimination, "_BYTES", size)
        eliminated = Elimination(vectors, torch.device("cpu"), keep=0.5, limit=N, seed=0, removed=removed)
        first = eliminated.first(queries, [2, 3])
        found.append([*first.values(), eliminated.next(queries, first[3], 3, step=1)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert not any(row in found[0][0][query] for query, row in removed.tolist())
