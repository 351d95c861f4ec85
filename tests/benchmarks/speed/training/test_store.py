from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison
from benchmarks.speed.training import store
from benchmarks.speed.training.workload import TINY, write_store


def test_a_store_gives_what_its_files_hold(data: Path, complete: Callable[[Comparison, int], dict[str, Any]]) -> None:
    results = complete(store.measure(data, TINY, repeats=3), 3)
    assert results["gigabytes"] * 1e9 == sum(file.stat().st_size for file in write_store(TINY, data).iterdir())
