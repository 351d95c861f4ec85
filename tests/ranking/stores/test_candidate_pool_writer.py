"""A build of a pool that is killed or stopped goes on, and ends with the bytes of an uninterrupted one."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from ranking.stores import id_index
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.candidate_pool_writer import CandidatePoolWriter
from ranking.stores.files import StoreError

NUM_SHARDS, ROWS, DIM = 3, 40, 4


def build(path: Path, *, apart: bool = False, order: tuple[int, ...] = (0, 1, 2), **changes: object) -> Path:
    """Build a pool of three shards of candidates, or go on with one; `apart`, as other processes write them."""
    id_index.BUCKET_ROWS = 80
    layout = {"feature_dim": DIM, "dtype": "float16", "settings": {"rows": ROWS}} | changes
    with CandidatePoolWriter(path, **layout) as writer:
        for shard in (shard for shard in order if shard not in writer.candidate_shards):
            vectors = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(shard))
            content = [f"{shard}-{row}" for row in range(ROWS)], [f"text {row}" for row in range(ROWS)], vectors
            if apart:
                writer.shards.write_apart(shard, *content, cut=shard)
            else:
                writer.add_candidates(*content, cut=shard)
        writer.collect()
        for shard in range(writer.num_queries // ROWS, 1):
            writer.add_queries(
                ids=[f"{shard}-{query}" for query in range(ROWS)],
                texts=[f"query {shard} {query}" for query in range(ROWS)],
                features=torch.ones(ROWS, DIM),
                relevant_offsets=torch.arange(ROWS + 1),
                relevant=writer.rows_of([f"{shard}-{query}" for query in range(ROWS)]),
            )
        return writer.finish()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(autouse=True)
def _usual_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_index, "BUCKET_ROWS", id_index.BUCKET_ROWS)


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """The files of a build that nothing interrupted."""
    return contents(build(tmp_path / "whole"))


KILL_EVERYWHERE = """
    import os, signal
    from pathlib import Path
    from tests.ranking.stores.test_candidate_pool_writer import build

    steps = 0

    def count_down(call):
        def step(*arguments, **options):
            global steps
            steps -= 1
            if steps == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return step

    os.fsync, Path.replace, Path.rename, Path.unlink = map(
        count_down, (os.fsync, Path.replace, Path.rename, Path.unlink)
    )
    killed = True
    kills = 0
    while killed:
        kills += 1
        child = os.fork()
        if child == 0:
            steps = kills
            build(Path({path!r}) / str(kills), apart={apart}, order={order})
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        killed = os.WIFSIGNALED(status)
        assert killed or os.WEXITSTATUS(status) == 0
    print(kills)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("apart", "order"), [(False, (0, 1, 2)), (True, (2, 0, 1))])
def test_a_build_killed_before_any_step_on_disk_goes_on_to_the_same_bytes(
    tmp_path: Path, whole: dict[str, bytes], apart: bool, order: tuple[int, ...]
) -> None:
    script = textwrap.dedent(KILL_EVERYWHERE.format(path=str(tmp_path), apart=apart, order=order))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    kills = int(done.stdout)
    assert kills > 30
    for kill in range(1, kills):
        path = tmp_path / str(kill)
        if not path.exists():  # The last kill comes after the pool has its name.
            with pytest.raises(StoreError, match="unfinished"):
                CandidatePool.open(path)
            build(path, apart=not apart)
        assert contents(path) == whole, f"killed at step {kill}"
        assert not path.with_name(f"{kill}.partial").exists()


def test_shards_of_other_processes_are_the_same_pool_in_whatever_order_they_come(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    assert contents(build(tmp_path / "apart", apart=True, order=(2, 1, 0))) == whole


def test_the_record_of_a_shard_that_was_changed_before_it_was_listed_is_refused(tmp_path: Path) -> None:
    layout = {"feature_dim": DIM, "dtype": "float16", "settings": {"rows": ROWS}}
    with CandidatePoolWriter(tmp_path / "pool", **layout) as writer:
        writer.shards.write_apart(1, ["a"], ["text"], torch.ones(1, DIM))
        before = writer.shards.apart()
        record = tmp_path / "pool.partial" / "candidates-00001.json"
        content = record.read_bytes()
        for place, byte in enumerate(content):
            record.write_bytes(content[:place] + bytes([byte ^ 1 << place % 8]) + content[place + 1 :])
            try:
                assert writer.shards.apart() == before
            except StoreError as error:
                assert str(error).startswith(f"{record}: damaged: ")
                assert error.cure == f"delete {record}: the build makes that shard again"
        record.write_text(json.dumps(before[1]))  # as an older version wrote it
        assert writer.shards.apart() == before


def test_a_shard_that_was_changed_before_it_was_listed_is_refused(tmp_path: Path) -> None:
    layout = {"feature_dim": DIM, "dtype": "float16", "settings": {"rows": ROWS}}
    with CandidatePoolWriter(tmp_path / "pool", **layout) as writer:
        writer.shards.write_apart(1, ["a"], ["text"], torch.ones(1, DIM))
        assert writer.candidate_shards == {1}
    shard = tmp_path / "pool.partial" / "candidates-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match=f"{shard}: it has changed"):
        build(tmp_path / "pool")


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
    layout = {"feature_dim": DIM, "dtype": "float16", "settings": {"rows": ROWS}}
    with CandidatePoolWriter(tmp_path / "pool", **layout) as writer:
        writer.add_candidates(["a"], ["text"], torch.ones(1, DIM))
    with pytest.raises(StoreError, match=rf"pool\.partial: made with another {message}"):
        build(tmp_path / "pool", **changes)


def test_a_pool_is_built_by_one_process_and_never_overwritten(tmp_path: Path) -> None:
    layout = {"feature_dim": DIM, "dtype": "float16", "settings": {"rows": ROWS}}
    with (
        CandidatePoolWriter(tmp_path / "pool", **layout),
        pytest.raises(StoreError, match="another process is building this store"),
    ):
        build(tmp_path / "pool")
    build(tmp_path / "pool")
    with pytest.raises(StoreError, match="already exists"):
        build(tmp_path / "pool")


MEMORY = """
    import sys
    from pathlib import Path
    import torch
    from ranking.stores.candidate_pool import CandidatePool
    from ranking.stores.candidate_pool_writer import CandidatePoolWriter

    def anonymous():
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
        return int(line.split()[1]) / 1024

    num_rows, rows = int(sys.argv[2]), 16384
    peak = 0
    vectors = torch.ones(rows, 4)
    with CandidatePoolWriter(sys.argv[1], feature_dim=4, dtype="float16", settings={}) as writer:
        for first in range(0, num_rows, rows):
            ids = [str(row) for row in range(first, first + rows)]
            writer.add_candidates(ids, ids, vectors)
            if first == rows:
                before = anonymous()
            peak = max(peak, anonymous() - before) if first > rows else 0
        assert writer.rows_of(["77", "x"]).tolist() == [77, -1]
        path = writer.finish()
    pool = CandidatePool.open(path)
    assert pool.num_candidates == num_rows and pool.rows_of([str(num_rows - 1)]).tolist() == [num_rows - 1]
    print(max(peak, anonymous() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is in memory")
def test_writing_and_reading_a_long_pool_holds_no_ids_texts_or_vectors(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path / "pool"), str(16384 * 20)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    # 327,680 Python strings alone would take 18 MB.
    assert float(done.stdout) < 12
