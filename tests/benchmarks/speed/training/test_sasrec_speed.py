"""The benchmark of SASRec: both train on the same sequences."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.speed.training import sasrec
from benchmarks.speed.training.sasrec import LEAST, THEIRS, measure, sequences_of, train_here
from benchmarks.speed.training.workload import TINY
from datamodules.user_sequences import UserSequences
from registry import ConfigError


def test_the_sequences_are_those_of_the_file_without_the_last_two_items_of_each_user(tmp_path: Path) -> None:
    pool = sasrec._write_pool(LEAST, tmp_path)
    data = UserSequences(pool)
    lines = [line.split()[1:] for line in (tmp_path / "sequences.txt").read_text().splitlines()]
    found = sorted([data.pool.id(row) for row in items] for _, items in sequences_of(data))
    assert found == sorted(line[:-2] for line in lines) and len(found) == LEAST.num_users
    assert train_here(pool, 4) > 0


def test_without_cornac_the_benchmark_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"(?s)cornac is not installed.*pip install"):
        measure(tmp_path, TINY, 1)


@pytest.mark.skipif(find_spec("cornac") is None, reason="needs cornac: pip install -e '.[peers]'")
def test_both_are_timed(tmp_path: Path) -> None:
    found = measure(tmp_path, TINY, 1, apart=False)
    assert all(seconds[0] > 0 for seconds in found.seconds.values()) and THEIRS in found.seconds
