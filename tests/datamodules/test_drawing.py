from collections import Counter

import pytest
import torch
from scipy import stats

from datamodules import drawing
from datamodules.drawing import draw_slots, has_order, has_relevant, slots_of

SIZES = [12, 5, 3, 0, 7, 1]
OFFSETS = torch.tensor([0, *SIZES]).cumsum(0)


def draw(groups: list[int], num_candidates: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return draw_slots(OFFSETS, torch.tensor(groups, dtype=torch.int64), num_candidates, generator).tolist()


@pytest.mark.parametrize("num_candidates", [1, 2, 5, 20])
@pytest.mark.parametrize("keys_at_once", [1, 40, 1 << 22])
def test_a_group_gets_different_slots_of_its_own_and_then_padding(
    num_candidates: int, keys_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "_KEYS_AT_ONCE", keys_at_once)
    groups = [0, 1, 2, 3, 4, 5, 0, 3, 0] * 20
    drawn = draw(groups, num_candidates)
    assert len(drawn) == len(groups)
    for group, slots in zip(groups, drawn, strict=True):
        count = min(SIZES[group], num_candidates)
        assert len(slots) == num_candidates
        assert len(set(slots[:count])) == count
        assert all(int(OFFSETS[group]) <= slot < int(OFFSETS[group + 1]) for slot in slots[:count])
        assert slots[count:] == [-1] * (num_candidates - count)


def test_slots_keep_their_order_where_there_are_no_more_than_asked_for() -> None:
    assert draw([1, 2, 0], 5)[:2] == [[12, 13, 14, 15, 16], [17, 18, 19, -1, -1]]
    assert draw([1, 0], 12) == [[*range(12, 17), *[-1] * 7], list(range(12))]


def test_every_slot_is_as_likely_at_every_place_and_beside_every_other() -> None:
    drawn = draw([4] * 42_000, 3)
    at_place = Counter((place, slot) for slots in drawn for place, slot in enumerate(slots))
    together = Counter((slots[0], slots[1]) for slots in drawn)
    assert len(at_place) == 3 * 7
    assert len(together) == 7 * 6
    # The places of one draw depend on each other, so each place is a test of its own.
    for place in range(3):
        assert stats.chisquare([count for key, count in at_place.items() if key[0] == place]).pvalue > 1e-3
    assert stats.chisquare(list(together.values())).pvalue > 1e-3


def test_a_group_that_is_drawn_twice_is_drawn_afresh() -> None:
    drawn = draw([0] * 50, 3)
    assert len({tuple(slots) for slots in drawn}) > 40


def test_the_generator_alone_decides() -> None:
    groups = [0, 4, 1] * 10
    assert draw(groups, 3, seed=1) == draw(groups, 3, seed=1)
    assert draw(groups, 3, seed=1) != draw(groups, 3, seed=2)


def test_no_group_gives_no_slots() -> None:
    assert draw([], 4) == []


def test_order_and_relevance_ignore_what_is_padded() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (200, 3), generator=generator).float()
    slots = torch.where(torch.rand(200, 3, generator=generator) < 0.4, -1, 7)
    order, relevant = has_order(labels, slots).tolist(), has_relevant(labels, slots).tolist()
    for place in range(200):
        real = [float(labels[place, at]) for at in range(3) if int(slots[place, at]) >= 0]
        assert order[place] == (len(set(real)) > 1)
        assert relevant[place] == any(label > 0 for label in real)


def test_all_slots_of_groups_come_with_the_place_of_their_group() -> None:
    groups = [2, 3, 0, 2]
    place, slot = slots_of(OFFSETS, torch.tensor(groups))
    expected = [(at, slot) for at, group in enumerate(groups) for slot in range(*OFFSETS[group : group + 2].tolist())]
    assert list(zip(place.tolist(), slot.tolist(), strict=True)) == expected
