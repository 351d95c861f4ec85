"""A folder for synthetic data, and what every result has to hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.comparison import Comparison
from features.sources.retrieval import python_functions


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where synthetic stores go."""
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture
def few_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's functions are those of two packages: to read all of the standard library takes many seconds."""
    files = [found for found in python_functions._library_files() if found[0].startswith(("asyncio.", "email."))]
    monkeypatch.setattr(python_functions, "_library_files", lambda: iter(files))


@pytest.fixture
def complete() -> Callable[[Comparison, int], dict[str, Any]]:
    """Check that a comparison is whole, and give what it would write."""

    def results_of(found: Comparison, repeats: int) -> dict[str, Any]:
        results = found.results()
        assert set(results["ways"]) == set(found.seconds)
        assert all(len(way["seconds"]) == repeats and min(way["seconds"]) > 0 for way in results["ways"].values())
        assert all(len(ratio["values"]) == repeats for ratio in results["ratios"].values())
        assert results["made_with"]["torch"] == torch.__version__
        assert results["made_with"]["machine"]["processor"]
        return results

    return results_of
