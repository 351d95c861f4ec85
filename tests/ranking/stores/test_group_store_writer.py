"""A build that is killed, stopped or refused by the disk goes on, and ends with the bytes of an uninterrupted one."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from ranking.stores.files import StoreError
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter

NUM_SHARDS, ROWS, DIM = 2, 50, 4


def build(path: Path, stop_after: int | None = None, **changes: object) -> Path:
    """Build a store of two shards a table, or go on with one; optionally stop after some shards."""
    layout = {"feature_dim": DIM, "depths": [None], "dtype": "float16", "settings": {"rows": ROWS}} | changes
    with GroupStoreWriter(path, **layout) as writer:
        for shard in range(writer.num_candidates // ROWS, NUM_SHARDS):
            if shard == stop_after:
                return path
            draw = torch.Generator().manual_seed(shard)
            writer.add_candidates(
                torch.randn(ROWS, 1, DIM, generator=draw), [f"text {shard} {row}" for row in range(ROWS)]
            )
        for shard in range(writer.num_groups // ROWS, NUM_SHARDS):
            draw = torch.Generator().manual_seed(shard + 100)
            writer.add_groups(
                ids=[f"{shard}-{group}" for group in range(ROWS)],
                texts=[f"query {shard} {group}" for group in range(ROWS)],
                features=torch.randn(ROWS, 1, DIM, generator=draw),
                offsets=torch.arange(ROWS + 1) * 2,
                candidate=torch.randint(0, NUM_SHARDS * ROWS, (ROWS * 2,), generator=draw),
                label=(torch.arange(ROWS * 2) % 2).float(),
                slot_ids=[str(slot) for slot in range(ROWS * 2)],
            )
        return writer.finish()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """The files of a build that nothing interrupted."""
    return contents(build(tmp_path / "whole"))


KILL_EVERYWHERE = """
    import os, signal
    from pathlib import Path
    from tests.ranking.stores.test_group_store_writer import build

    steps = 0

    def count_down(call):
        def step(*arguments):
            global steps
            steps -= 1
            if steps == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)
        return step

    os.fsync, Path.replace, Path.rename = map(count_down, (os.fsync, Path.replace, Path.rename))
    killed = True
    kills = 0
    while killed:
        kills += 1
        child = os.fork()
        if child == 0:
            steps = kills
            build(Path({path!r}) / str(kills))
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        killed = os.WIFSIGNALED(status)
        assert killed or os.WEXITSTATUS(status) == 0
    print(kills)
"""


def run(script: str) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[3])
    environment = os.environ | {"PYTHONPATH": root}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], env=environment, stdout=-1, text=True)


def test_a_folder_that_cannot_be_written_to_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StoreError, match=r"data/store.partial: cannot be created(.|\n)*set features.path to a folder"):
        GroupStoreWriter(tmp_path / "data" / "store", feature_dim=2, depths=[None], dtype="float32", settings={})


def test_texts_are_given_as_a_list(tmp_path: Path) -> None:
    layout = {"feature_dim": 2, "depths": [None], "dtype": "float32", "settings": {}}
    refused = pytest.raises(ValueError, match="text is one text, 'ab', and has to be a list of texts")
    with GroupStoreWriter(tmp_path / "s", **layout) as writer, refused:
        writer.add_candidates(torch.zeros(2, 1, 2), "ab")


def test_a_build_killed_before_any_flush_or_rename_goes_on_to_the_same_bytes(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    process = run(KILL_EVERYWHERE.format(path=str(tmp_path)))
    kills = int(process.communicate()[0])
    assert kills > 25
    for kill in range(1, kills):
        path = tmp_path / str(kill)
        if not path.exists():  # The last kill comes after the store has its name.
            with pytest.raises(StoreError, match="unfinished"):
                GroupStore.open(path)
            build(path)
        assert contents(path) == whole, f"killed at step {kill}"
        assert not path.with_name(f"{kill}.partial").exists()


def test_a_build_killed_at_any_moment_goes_on_to_the_same_bytes(tmp_path: Path, whole: dict[str, bytes]) -> None:
    path = tmp_path / "store"
    script = f"""
        from pathlib import Path
        from tests.ranking.stores.test_group_store_writer import build
        number = 0
        while True:
            print("begin", flush=True)
            build(Path({str(path)!r}).with_name(f"store-{{number}}"))
            number += 1
    """
    process = run(script)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    last = max(int(file.name.removesuffix(".partial").rpartition("-")[2]) for file in tmp_path.glob("store-*"))
    path = tmp_path / f"store-{last}"
    assert contents(path if path.exists() else build(path)) == whole


def test_what_is_on_disk_is_not_written_again(tmp_path: Path) -> None:
    path = build(tmp_path / "store", stop_after=1)
    partial = tmp_path / "store.partial"
    written = {file.name: file.stat().st_mtime_ns for file in partial.glob("*.safetensors")}
    assert len(written) == 1
    build(path)
    assert {name: (path / name).stat().st_mtime_ns for name in written} == written


def test_a_full_disk_keeps_what_is_done_and_says_what_to_do(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"store.partial/.* could not be written: No space left(.|\n)*make room"):
        build(tmp_path / "store")
    monkeypatch.undo()
    assert not list((tmp_path / "store.partial").glob("*.tmp"))
    assert list((tmp_path / "store.partial").glob("*.safetensors"))
    assert contents(build(tmp_path / "store")) == whole


def test_a_finished_store_is_never_overwritten(tmp_path: Path, whole: dict[str, bytes]) -> None:
    with pytest.raises(StoreError, match="already exists"):
        build(tmp_path / "whole")
    assert contents(tmp_path / "whole") == whole
    assert not (tmp_path / "whole.partial").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"rows": ROWS, "seed": 1}}, "settings.seed: None, now 1"),
        ({"dtype": "float32"}, "dtype: 'float16', now 'float32'"),
        ({"encoder": {"model": "x"}}, "encoder: None, now"),
        ({"feature_dim": 8}, "feature_dim: 4, now 8"),
    ],
)
def test_a_build_goes_on_only_with_the_settings_it_began_with(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    build(tmp_path / "store", stop_after=1)
    before = contents(tmp_path / "store.partial")
    with pytest.raises(StoreError, match=f"store.partial: made with another {message}"):
        build(tmp_path / "store", **changes)
    assert contents(tmp_path / "store.partial") == before


def test_a_build_whose_shard_was_changed_does_not_go_on(tmp_path: Path) -> None:
    build(tmp_path / "store", stop_after=1)
    shard = tmp_path / "store.partial" / "candidates-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match=f"{shard}: it has changed"):
        build(tmp_path / "store")
    shard.unlink()
    with pytest.raises(StoreError, match=f"{shard}: missing"):
        build(tmp_path / "store")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store.partial").mkdir()
    (tmp_path / "store.partial" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"not an unfinished store, but it has thesis.txt"):
        build(tmp_path / "store")
    assert contents(tmp_path / "store.partial") == {"thesis.txt": b"mine"}


def test_two_processes_cannot_build_the_same_store(tmp_path: Path) -> None:
    layout = {"feature_dim": DIM, "depths": [None], "dtype": "float16", "settings": {"rows": ROWS}}
    with (
        GroupStoreWriter(tmp_path / "store", **layout),
        pytest.raises(StoreError, match="another process is building this store"),
    ):
        build(tmp_path / "store")
    build(tmp_path / "store")


def test_a_store_without_groups_is_not_finished(tmp_path: Path) -> None:
    writer = GroupStoreWriter(tmp_path / "s", feature_dim=DIM, depths=[None], dtype="float16", settings={})
    with writer, pytest.raises(StoreError, match="no group was written"):
        writer.finish()
    assert not (tmp_path / "s").exists()
