from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import peers
from benchmarks.comparison import Comparison
from benchmarks.speed.training.workload import TINY
from benchmarks.speed.vectors import search
from registry import ConfigError


@pytest.mark.slow
def test_search_finds_what_faiss_finds(data: Path, complete: Callable[[Comparison, int], dict[str, Any]]) -> None:
    results = complete(search.measure(data, TINY, repeats=1, apart=False), 1)
    assert set(results["share_of_candidates_that_differ"].values()) == {0.0}
    assert results["floor"]["gflop"] == 2 * 5000 * 20 * 32 / 1e9
    assert results["floor"]["seconds"] > 0


def test_a_device_is_measured_by_its_bandwidth() -> None:
    found = search.on_device(torch.device("cpu"), 500, search.SMALL, repeats=1)
    assert found["gigabytes_per_second_copied"] > 0
    assert all(
        found[f"{name}, {batch} queries"]["seconds"] > 0 for name in ("top_k", "places") for batch in (1, 32, 256)
    )


def test_other_candidates_than_ours_are_noticed(tmp_path: Path) -> None:
    path = search._write(search.SMALL, tmp_path)
    right, _ = search._ours(path, 5, torch.float32)
    scores, rows = (part.numpy() for part in right())
    with pytest.raises(AssertionError):
        search._compare(path, (scores, rows), (scores, np.roll(rows, 1, axis=0)))


def _adding_up(*numbers: int) -> peers.Work:
    return lambda: numbers, sum


@pytest.mark.slow
@pytest.mark.parametrize("apart", [True, False])
def test_work_is_timed_here_or_in_a_process_of_its_own(apart: bool) -> None:
    way = peers.Way(_adding_up, 3, 4, apart=apart)
    assert way.seconds() >= 0
    assert way.result == 7
    way.close()


def test_a_missing_peer_is_named_with_what_installs_it() -> None:
    with pytest.raises(ConfigError) as missing:
        peers.require("torch", "a_peer_that_nobody_wrote")
    assert "a_peer_that_nobody_wrote is not installed" in str(missing.value)
    assert "pip install -e '.[peers]'" in str(missing.value)
