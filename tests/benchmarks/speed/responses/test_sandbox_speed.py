from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import Comparison
from benchmarks.speed.responses import sandbox
from benchmarks.speed.training.workload import TINY
from sandbox.sandbox import Program


def test_every_way_passes_right_programs_and_fails_wrong_ones(
    data: Path, complete: Callable[[Comparison, int], dict[str, Any]]
) -> None:
    results = complete(sandbox.measure(data, TINY, repeats=2), 2)
    assert set(results["programs_per_second"]) == set(results["ways"])
    assert results["share_not_the_programs_own"] < 1


def test_every_kind_of_program_comes_right_and_wrong() -> None:
    programs = sandbox.programs(sandbox.Case(6, 2))
    assert sandbox._in_this_process(programs) == [True, False] * 6


def test_a_way_that_differs_is_noticed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(programs: list[Program], cores: int, options: tuple[str, ...]) -> list[bool]:
        return [True] * len(programs)

    monkeypatch.setattr(sandbox, "_in_interpreters", blind)
    with pytest.raises(AssertionError, match="interpreters"):
        sandbox.measure(data, TINY, repeats=1)
