from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import Comparison
from benchmarks.speed.serving import personal
from benchmarks.speed.training.workload import TINY


@pytest.mark.slow
def test_the_differences_of_all_users_are_in_memory(
    data: Path, complete: Callable[[Comparison, int], dict[str, Any]]
) -> None:
    results = complete(personal.measure(data, TINY, repeats=2), 2)
    assert results["whole"]["bytes_per_user"] == 2 * results["weights"]
    assert results["rank 4"]["bytes_per_user"] < results["whole"]["bytes_per_user"]
    assert results["whole"]["error of random differences"] < 1e-3 < results["rank 4"]["error of random differences"]
