"""Draws do not depend on the order of what is drawn from."""

import pytest

from features.texts.subsets import drawn, pool_of
from registry import ConfigError

IDS = [f"id{place}" for place in range(2000)]


def test_what_is_drawn_depends_on_the_seed_and_on_nothing_else() -> None:
    assert drawn(IDS, 300, 0) == drawn(reversed(IDS), 300, 0) != drawn(IDS, 300, 1)
    assert drawn(IDS, 100, 0) < drawn(IDS, 300, 0)


def test_every_id_is_as_likely_as_any_other() -> None:
    draws = [drawn(IDS[:20], 5, seed) for seed in range(2000)]
    counts = [sum(f"id{place}" in draw for draw in draws) for place in range(20)]
    assert all(abs(count - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for count in counts)


def test_all_are_taken_where_there_are_no_more() -> None:
    assert drawn(IDS, None, 0) == drawn(IDS, 5000, 0) == set(IDS)


def test_a_pool_holds_all_relevant_ones() -> None:
    pool = pool_of({"id3", "other"}, IDS, 100, 0)
    assert len(pool) == 100 and {"id3", "other"} < pool
    with pytest.raises(ConfigError, match="1 is less than the 2 relevant candidates"):
        pool_of({"id3", "other"}, IDS, 1, 0)
