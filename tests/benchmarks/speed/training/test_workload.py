from pathlib import Path

from benchmarks.speed.training.workload import TINY, write_store
from ranking.stores.group_store import GroupStore


def test_a_store_is_written_once(data: Path) -> None:
    path = write_store(TINY, data)
    changed = (path / "manifest.json").stat().st_mtime_ns
    assert write_store(TINY, data) == path
    assert (path / "manifest.json").stat().st_mtime_ns == changed
    written = GroupStore.open(path, verify=True)
    assert written.num_candidates == 20 * written.num_groups
