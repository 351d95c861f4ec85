from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from benchmarks.comparison import Comparison
from benchmarks.speed.training.workload import TINY
from benchmarks.speed.vectors import pool_memory
from ranking.stores.candidate_pool import CandidatePool
from registry import ConfigError


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_pool_is_ranked_and_its_memory_watched(
    data: Path, complete: Callable[[Comparison, int], dict[str, Any]]
) -> None:
    results = complete(pool_memory.measure(data, TINY, repeats=2, apart=False), 2)
    for name in ("1 query", "4 queries"):
        assert results["peak_gigabytes"][name]["anonymous"] > 0
        assert results["peak_gigabytes"][name]["mapped"] > 0
        assert results["seconds_a_query"][name] > 0
    assert results["seconds_with_nothing_of_the_files_in_memory"]["4 queries"] > 0


def test_the_pool_is_written_once_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = pool_memory.SMALL
    write = pool_memory.CandidatePoolWriter.add_candidates
    calls = []

    def stopping(self: Any, *arguments: Any) -> int:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(self, *arguments)

    monkeypatch.setattr(pool_memory.CandidatePoolWriter, "add_candidates", stopping)
    with pytest.raises(KeyboardInterrupt):
        pool_memory.write_pool(case, tmp_path)
    path = pool_memory.write_pool(case, tmp_path)
    assert pool_memory.write_pool(case, tmp_path) == path
    assert len(calls) == 3 + 3
    pool = CandidatePool.open(path, verify=True)
    assert pool.num_candidates == case.num_candidates
    vectors = torch.cat(list(pool.blocks())).float()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)), atol=2e-3, rtol=0)
    assert len(vectors.unique(dim=0)) == len(vectors)


def test_a_folder_without_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int = 10**9

    monkeypatch.setattr(pool_memory.shutil, "disk_usage", lambda path: Usage())
    with pytest.raises(ConfigError, match="pool_memory needs 15 GB for its pool; 1 GB are free"):
        pool_memory.write_pool(pool_memory.FULL, tmp_path)
