from collections import Counter

import pytest

from features.sources.tasks.arithmetic import Arithmetic
from registry import SOURCES, ConfigError

WORDS = {"sum": "+", "difference": "-", "product": "*"}


def test_each_reference_is_the_result_of_what_is_asked() -> None:
    problems = list(Arithmetic(60, 30).problems())
    for problem in problems:
        asked = problem.query.removeprefix("Calculate ").removesuffix(".")
        assert problem.reference == str(eval(asked)) and problem.messages[-1]["content"] == problem.query
        assert f" {WORDS[problem.query_id.split('-')[0]]} " in asked
    assert [problem.split for problem in problems] == ["train"] * 60 + ["test"] * 30
    assert Counter(problem.query_id.split("-")[0] for problem in problems) == dict.fromkeys(WORDS, 30)


def test_all_problems_differ_and_none_is_among_the_solved_ones() -> None:
    problems = list(Arithmetic(1000, 80, largest=60, largest_factor=20).problems())
    queries = {problem.query for problem in problems}
    assert len(queries) == len(problems) == 1080
    solved = problems[0].messages[:-1]
    assert not queries & {message["content"] for message in solved}
    assert [message["role"] for message in solved] == ["user", "assistant"] * 3
    assert [eval(message["content"].replace("=", "==")) for message in solved[1::2]] == [True] * 3


def test_another_seed_draws_others_and_more_of_them_keep_the_first() -> None:
    first, other = ({problem.query_id for problem in Arithmetic(30, 0, seed=seed).problems()} for seed in (0, 1))
    assert first != other
    assert first <= {problem.query_id for problem in Arithmetic(60, 0).problems()}
    assert Arithmetic(30, 0).fingerprint() != Arithmetic(30, 0, seed=1).fingerprint()


def test_wrong_options_are_told() -> None:
    with pytest.raises(ConfigError, match="only 840 different problems of the kind product, not 900"):
        list(Arithmetic(900, 0, operations=["product"]).problems())
    for options in (
        {"num_train": 0, "num_test": 0},
        {"num_train": -1},
        {"largest": 1},
        {"operations": ["power"]},
        {"operations": []},
    ):
        with pytest.raises(ConfigError):
            SOURCES.build({"name": "arithmetic", **options}, path="features.source")
