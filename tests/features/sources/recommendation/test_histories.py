"""Histories: windows of what users did, as a plain loop over sorted lists finds them."""

import random
from typing import Any

import pytest

from features.sources.recommendation.histories import Histories, Windows
from features.texts.pools import PoolQuery
from registry import ConfigError


def queries(interactions: list[tuple[str, str, float]], **options: Any) -> list[PoolQuery]:
    return list(Histories(interactions).queries(Windows(**options), str.upper))


def test_the_last_interaction_is_test_the_one_before_validates_and_earlier_ones_train() -> None:
    found = queries([("u", item, float(time)) for time, item in enumerate("abcdef")], history=2)
    assert [(each.id, each.split, list(each.relevant), each.history, each.text) for each in found] == [
        ("u-3", "train", ["c"], ["a", "b"], "Newest to oldest: B; A"),
        ("u-4", "train", ["d"], ["b", "c"], "Newest to oldest: C; B"),
        ("u-5", "val", ["e"], ["c", "d"], "Newest to oldest: D; C"),
        ("u-6", "test", ["f"], ["d", "e"], "Newest to oldest: E; D"),
    ]


def test_a_text_that_is_cut_at_its_end_keeps_the_newest_items() -> None:
    (found,) = queries([("u", f"i{time}", float(time)) for time in range(21)], history=20)
    assert found.history == [f"i{time}" for time in range(20)]
    assert found.text[:30] == "Newest to oldest: I19; I18; I17; I16"[:30] and found.text.endswith("; I1; I0")


def test_pools_of_texts_in_another_wording_are_not_taken_for_these() -> None:
    assert Windows().settings["text"] == "Newest to oldest: {}"


def test_training_windows_are_the_latest_and_a_stride_apart() -> None:
    interactions = [("u", f"i{time}", float(time)) for time in range(20)]
    found = queries(interactions, history=3, stride=4, max_windows=2)
    assert [(each.id, each.split) for each in found] == [
        ("u-14", "train"),
        ("u-18", "train"),
        ("u-19", "val"),
        ("u-20", "test"),
    ]
    assert [each.split for each in queries(interactions, history=3, max_windows=0)] == ["val", "test"]


def test_users_with_too_little_history_give_the_later_splits_first() -> None:
    interactions = [
        (user, f"{user}{time}", float(time)) for user, size in (("a", 2), ("b", 3), ("c", 4)) for time in range(size)
    ]
    assert [each.id for each in queries(interactions, history=3)] == ["c-4"]
    found = queries(interactions, history=3, min_history=1)
    assert [(each.id, each.split, len(each.history)) for each in found] == [
        ("a-2", "test", 1),
        ("b-2", "val", 1),
        ("b-3", "test", 2),
        ("c-2", "train", 1),
        ("c-3", "val", 2),
        ("c-4", "test", 3),
    ]


def test_equal_times_are_in_the_order_of_the_file_and_repeats_count_once() -> None:
    interactions = [("u", "late", 9.0), ("u", "b", 1.0), ("u", "a", 1.0), ("u", "b", 5.0), ("u", "first", 0.0)]
    histories = Histories(interactions)
    assert histories.of(0) == ["first", "b", "a", "late"]


def test_many_users_in_any_order_are_as_a_plain_loop_finds_them() -> None:
    draw = random.Random(0)
    interactions = [(f"u{draw.randrange(30)}", f"i{draw.randrange(40)}", float(draw.randrange(50))) for _ in range(900)]
    histories = Histories(interactions)
    by_user: dict[str, list[tuple[float, int, str]]] = {}
    for place, (user, item, time) in enumerate(interactions):
        by_user.setdefault(user, []).append((time, place, item))
    for code, user in enumerate(histories.users):
        assert histories.of(code) == list(dict.fromkeys(item for _, _, item in sorted(by_user[user])))
    found = list(histories.queries(Windows(history=5), str))
    assert len(found) == sum(max(0, len({item for *_, item in each}) - 5) for each in by_user.values())
    assert len({query.id for query in found}) == len(found)


def test_no_window_at_all_is_an_error_that_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"no user has 21 interactions") as error:
        queries([("u", "a", 1.0), ("u", "b", 2.0)])
    assert "features.source.windows.min_history" in str(error.value)
    with pytest.raises(ConfigError, match=r"no user has 21 interactions"):
        queries([])


def test_a_smallest_history_above_the_largest_is_refused() -> None:
    with pytest.raises(ValueError, match=r"min_history \(21\)"):
        Windows(min_history=21)


def test_by_user_the_item_after_the_first_ones_is_predicted_once() -> None:
    interactions = [
        (user, f"{user}{time}", float(time)) for user, size in (("a", 3), ("b", 4), ("c", 6)) for time in range(size)
    ]
    found = queries(interactions, history=3, by="user")
    assert [(each.id, each.split, each.history) for each in found] == [
        ("b-4", None, ["b0", "b1", "b2"]),
        ("c-4", None, ["c0", "c1", "c2"]),
    ]
    assert [each.id for each in queries(interactions, history=3, min_history=1, by="user")] == ["a-3", "b-4", "c-4"]


def test_own_lists_have_the_right_item_and_others_that_the_user_has_not_met() -> None:
    draw = random.Random(1)
    interactions = [
        (f"u{user}", f"i{item}", float(time))
        for user in range(200)
        for time, item in enumerate(draw.sample(range(40), 8))
    ]
    met = {user: {item for name, item, _ in interactions if name == user} for user, *_ in interactions}
    found = queries(interactions, history=3, by="user", negatives=19)
    counts = dict.fromkeys((item for _, item, _ in interactions), 0)
    places = [0] * 20
    for query in found:
        (right,), listed = query.relevant or (), list(query.candidates or ())
        assert len(listed) == len(set(listed)) == 20 and set(listed) & met[str(query.user)] == {right}
        places[listed.index(right)] += 1
        for item in listed:
            counts[item] += 1
    # 200 lists of 20 of 40 items: about 100 each, and the right one stands anywhere.
    assert min(counts.values()) > 60 and max(counts.values()) < 140 and max(places) < 30
    assert [each.candidates for each in queries(interactions, history=3, by="user", negatives=19)] == [
        each.candidates for each in found
    ]
    with pytest.raises(
        ConfigError, match=r"(?s)windows.negatives: user u0 has no interaction with 32 items.*32 or less"
    ):
        queries(interactions, history=3, negatives=33)


def test_options_that_pools_were_built_without_change_nothing_by_default() -> None:
    assert set(Windows().settings) == {"history", "min_history", "stride", "max_windows", "text"}
    assert Windows(by="user", negatives=19).settings["by"] == "user"
