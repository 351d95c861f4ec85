from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison
from benchmarks.speed.training import projection
from benchmarks.speed.training.workload import TINY


def test_projecting_rows_or_slots_gives_the_same_gradients(
    data: Path, complete: Callable[[Comparison, int], dict[str, Any]]
) -> None:
    results = complete(projection.measure(data, TINY, repeats=3), 3)
    assert all(0 < share < 1 for share in results["unique_share_of_slots"].values())
