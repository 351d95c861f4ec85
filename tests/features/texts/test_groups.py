"""Groups of any source are looked at before they are embedded."""

import math
from dataclasses import replace
from typing import Any

import pytest

from features.building.group_rows import number_items, pool_ids
from features.texts.groups import Candidate, TextGroup, checked
from registry import ConfigError

GROUP = TextGroup("q1", "query", [Candidate("a", "one", 1.0), Candidate("b", "two", 0.0)], origin="here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": []}, "query 'q1' has no candidates"),
        ({"query": " "}, "the text of query 'q1' is empty"),
        ({"candidates": [Candidate("a", "")]}, "the text of candidate 'a' of query 'q1' is empty"),
        ({"candidates": [Candidate("a", "x"), Candidate("a", "y")]}, "query 'q1' has two candidates with the id 'a'"),
        ({"candidates": [Candidate("a", "x", math.nan)]}, "the label of candidate 'a' of query 'q1' is nan"),
    ],
)
def test_a_faulty_group_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"here: {message}"):
        list(checked([replace(GROUP, **changes)]))


def test_a_query_id_is_used_once() -> None:
    with pytest.raises(ConfigError, match="another group has the query_id 'q1'"):
        list(checked([GROUP, GROUP]))


def test_without_an_encoder_every_text_needs_a_feature() -> None:
    with pytest.raises(ConfigError, match="no feature, and there is no encoder"):
        list(checked([replace(GROUP, feature=[1.0])], with_features=True))


def test_equal_candidates_are_numbered_once() -> None:
    again = TextGroup(
        "q2", "query", [Candidate("c", "two"), Candidate("d", "three"), Candidate("e", "two", None, [1.0])]
    )
    assert list(number_items([GROUP, again], first=5).values()) == [5, 6, 7, 8]


def test_in_a_pool_an_id_means_one_text() -> None:
    other = TextGroup("q2", "query", [Candidate("a", "something else")], origin="there")
    rows = number_items([GROUP, other])
    with pytest.raises(ConfigError, match=r"there: the candidate id 'a' stands for two texts; `retrieve`"):
        pool_ids([GROUP, other], rows)
