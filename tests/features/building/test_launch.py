"""torchrun ... -m features: several processes build the pool that one builds, with a shared folder or without."""

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from forks import Fork

from features.__main__ import main
from registry.config import to_yaml

PROGRAM = """
import sys
from features.__main__ import main
from features.building import launch
launch._SEEN_WITHIN = 0.0
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture
def config(tiny_bert: Path, sentences: list[str], tmp_path: Path) -> Path:
    """A pool of 40 candidates in 14 pieces; paths of data and pool are relative."""
    candidates = [{"id": f"d{place}", "text": text} for place, text in enumerate(sentences)]
    queries = [{"id": f"q{place}", "text": f"sort {sentences[place]}", "rel": {f"d{place}": 1}} for place in range(5)]
    for name, rows in (("c.jsonl", candidates), ("q.jsonl", queries)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"candidates": "c.jsonl", "queries": "q.jsonl", "query_columns": {"relevant": "rel"}}
    encoder = {"model": str(tiny_bert), "max_length": 32, "device": "cpu", "dtype": "float32"}
    node = {"name": "candidate_pool", "source": {"name": "pool_files", **columns}, "encoder": encoder}
    file = tmp_path / "pool.yaml"
    file.write_text(to_yaml({"features": {**node, "path": "pool", "chunk_size": 3}}))
    return file


def launched(folders: list[Path], *arguments: str) -> list[Fork]:
    """A process in each folder, in the environment that torchrun gives; each is on a host of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(folders))}
    shared |= {"TORCHELASTIC_RUN_ID": "one", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}
    return [
        Fork(PROGRAM, arguments, folder=folder, environment={**os.environ, **shared, "RANK": str(rank)})
        for rank, folder in enumerate(folders)
    ]


def ended(forks: list[Fork]) -> list[tuple[int | None, str]]:
    """The exit status of each process and what it wrote."""
    said = ["".join(each.communicate(timeout=60)) for each in forks]
    return [(each.returncode, text) for each, text in zip(forks, said, strict=True)]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def copies(config: Path, *names: str) -> list[Path]:
    """Hosts with folders of their own, and the same data."""
    hosts = [config.parent / name for name in names]
    for host in hosts:
        host.mkdir()
        for file in config.parent.glob("*.jsonl"):
            shutil.copy(file, host)
    return hosts


@pytest.fixture
def whole(config: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of the pool that one process builds."""
    monkeypatch.chdir(config.parent)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["--config", str(config), "features.path=whole"]) == 0
    return contents(config.parent / "whole")


@pytest.mark.slow
def test_four_processes_with_a_shared_folder_build_the_bytes_of_one(config: Path, whole: dict[str, bytes]) -> None:
    found = ended(launched([config.parent] * 4, "--config", str(config)))
    assert [status for status, _ in found] == [0, 0, 0, 0], found
    assert contents(config.parent / "pool") == whole
    assert "45 texts" in found[0][1] and "pool is ready" in found[0][1]
    assert not any(said for _, said in found[1:]), "the first process speaks for all"
    again = ended(launched([config.parent] * 2, "--config", str(config)))
    assert [status for status, _ in again] == [0, 0] and "already exists" in again[0][1]


def test_hosts_without_a_shared_folder_build_shares_that_are_copied_together(
    config: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = copies(config, "first", "second")
    (status, said), (_, other) = ended(launched([first, second], "--config", str(config)))
    assert status == 1 and "pool.partial: 7 results of other processes are not here" in said
    assert "copy the other hosts' candidates-* into this one" in said
    assert "torchrun: another process has ended" in other
    for file in (second / "pool.partial").glob("candidates-*"):
        shutil.copy(file, first / "pool.partial")
    monkeypatch.chdir(first)
    assert main(["--config", str(config)]) == 0
    assert contents(first / "pool") == whole


def test_hosts_with_other_data_are_refused_and_the_first_one_ends(config: Path) -> None:
    first, second = copies(config, "first", "second")
    (second / "c.jsonl").write_text((second / "c.jsonl").read_text().replace("file", "door"))
    (status, said), (other_status, other) = ended(launched([first, second], "--config", str(config)))
    assert status == other_status == 1
    assert "pool.partial: the hosts differ: made with another source." in other
    assert "give all hosts the same config, files and models" in other and "another process has ended" in said


@pytest.mark.parametrize(("options", "problem"), [
    (["features.devices=2"], "features.devices: torchrun has started 2 processes already"),
    (["features={name: texts, source: {name: jsonl, path: c.jsonl}}"], "only a candidate_pool is built by"),
])  # fmt: skip
def test_what_several_processes_cannot_build_is_refused(config: Path, options: list[str], problem: str) -> None:
    found: list[Any] = ended(launched([config.parent] * 2, "--config", str(config), *options))
    assert [status for status, _ in found] == [1, 1] and problem in found[0][1]
