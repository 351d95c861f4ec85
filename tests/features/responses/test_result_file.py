"""ResultFile: what was written is there whole, whatever stops the writer."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from features.responses.result_file import ResultFile
from ranking.stores.files import StoreError

WRITER = """
import sys
from pathlib import Path
from features.responses.result_file import ResultFile
with ResultFile(Path(sys.argv[1]), "work", {"seed": 0}) as stage:
    for place in range(100_000):
        parts = {"text": {number: bytes([number]) * 500 for number in range(5)}, "more": {0: b"x"}}
        stage.write({f"p{place}": parts})
        print(place, flush=True)
"""


def test_what_is_written_is_read_again_by_problem_part_and_number(tmp_path: Path) -> None:
    with ResultFile(tmp_path, "work", {"seed": 0}) as stage:
        stage.write({"a": {"": {1: b"one", 0: b"zero"}, "other": {0: b""}}})
    with ResultFile(tmp_path, "work", {"seed": 0}) as stage:
        assert list(stage.read("a").items()) == [(0, b"zero"), (1, b"one")]
        assert stage.read("a", numbers=range(1, 9)) == {1: b"one"} and stage.read("a", "other") == {0: b""}
        assert stage.numbers("a") == {0, 1} and stage.numbers("b") == set()
        stage.write({"a": {"": {1: b"uno"}}})
        assert stage.read("a")[1] == b"uno"


def test_other_settings_are_another_file(tmp_path: Path) -> None:
    with (
        ResultFile(tmp_path, "work", {"a": 1, "b": 2}) as first,
        ResultFile(tmp_path, "work", {"a": 1, "b": 3}) as other,
    ):
        first.write({"a": {"": {0: b"x"}}})
        assert other.numbers("a") == set() and first.path != other.path
    with ResultFile(tmp_path, "work", {"b": 2, "a": 1}) as again:
        assert again.numbers("a") == {0}


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_writer_leaves_whole_problems(tmp_path: Path, seed: int) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.Random(seed).uniform(0.01, 0.15))
        os.kill(process.pid, signal.SIGKILL)
        told = process.stdout.read().split()
    with ResultFile(tmp_path, "work", {"seed": 0}) as stage:
        last = int(told[-1]) if told and told[-1].isdigit() else 0
        # A number that is half printed when the process dies is shorter than the one that was meant.
        for place in range(last + 1):
            assert stage.read(f"p{place}", "text") == {number: bytes([number]) * 500 for number in range(5)}
            assert stage.numbers(f"p{place}", "more") == {0}
        assert stage.numbers(f"p{last + 2}", "text") in (set(), {0, 1, 2, 3, 4})


def test_a_damaged_file_is_named_with_the_cure(tmp_path: Path) -> None:
    with ResultFile(tmp_path, "work", {}) as stage:
        path = stage.path
    path.write_bytes(b"no database at all, though long enough to be looked at" * 100)
    with pytest.raises(StoreError, match=r"(?s)work-.*sqlite.*damaged.*delete"):
        ResultFile(tmp_path, "work", {})


def test_a_result_of_which_a_bit_has_changed_is_refused(tmp_path: Path) -> None:
    with ResultFile(tmp_path, "work", {}) as stage:
        stage.write({"a": {"": {0: b"the answer is 42", 1: b"the answer is 43"}}})
    stage.path.write_bytes(stage.path.read_bytes().replace(b"is 42", b"is 52"))
    with ResultFile(tmp_path, "work", {}) as stage:
        assert stage.read("a", numbers=[1]) == {1: b"the answer is 43"}
        with pytest.raises(StoreError) as raised:
            stage.read("a")
    assert str(raised.value) == (
        f"{stage.path}: damaged: result 0 of a is not what was written.\n"
        f"  What to do:   delete {stage.path}; the same command computes its content again"
    )


def test_a_file_of_an_older_version_has_no_hashes_and_goes_on(tmp_path: Path) -> None:
    with ResultFile(tmp_path, "work", {}) as stage:
        stage._database._connection.execute("DROP TABLE results")
        stage._database._connection.execute(
            "CREATE TABLE results (problem TEXT, part TEXT, number INTEGER, value BLOB NOT NULL, "
            "PRIMARY KEY (problem, part, number)) WITHOUT ROWID"
        )
        stage._database._connection.execute("INSERT INTO results VALUES ('a', '', 0, x'00')")
    with ResultFile(tmp_path, "work", {}) as stage:
        assert stage.read("a") == {0: bytes(1)}
        stage.write({"a": {"": {1: b"one"}}})
    with ResultFile(tmp_path, "work", {}) as stage:
        assert stage.read("a") == {0: bytes(1), 1: b"one"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file.*cannot be created"):
        ResultFile(tmp_path / "file" / "stages", "work", {})


def test_a_full_disk_is_reported_and_saved_results_are_kept(tmp_path: Path) -> None:
    with ResultFile(tmp_path, "work", {}) as stage:
        stage.write({"a": {"": {0: b"kept"}}})
        pages = stage._database._connection.execute("PRAGMA page_count").fetchone()[0]
        stage._database._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StoreError, match=r"(?s)full.*make room.*the same command goes on"):
            stage.write({"b": {"": {number: bytes(1000) for number in range(100)}}})
        assert stage.read("a") == {0: b"kept"} and stage.numbers("b") == set()
        stage._database._connection.execute("PRAGMA max_page_count = 1000000")
        stage.write({"b": {"": {0: b"more"}}})
        assert stage.read("b") == {0: b"more"}
