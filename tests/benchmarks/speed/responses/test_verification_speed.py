from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import Comparison
from benchmarks.speed.responses import verification
from benchmarks.speed.training.workload import TINY


@pytest.mark.slow
def test_all_ways_give_the_same_labels_and_report_the_overhead(
    data: Path, complete: Callable[[Comparison, int], dict[str, Any]]
) -> None:
    results = complete(verification.measure(data, TINY, repeats=1), 1)
    assert results["responses"] == 64 and 0.2 < results["right"] < 0.7
    assert results["share_that_is_not_checking"] > 0


def test_recorded_responses_are_always_the_same() -> None:
    assert list(verification.recorded(40)) == list(verification.recorded(40))
    assert len(list(verification.recorded(40))) == 40
