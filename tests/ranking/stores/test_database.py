"""Database: all or nothing, by several at once, also after it was pickled."""

import pickle
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ranking.stores.database import Database
from ranking.stores.files import StoreError

TABLES = {"numbers": "(number INTEGER PRIMARY KEY, sha256 BLOB)"}
INSERT = "INSERT INTO numbers (number) VALUES (?)"


def numbers(database: Database) -> list[int]:
    return [number for (number,) in database.read("SELECT number FROM numbers ORDER BY number")]


@pytest.mark.parametrize("write_ahead", [False, True])
def test_threads_and_copies_write_to_one_file(write_ahead: bool, tmp_path: Path) -> None:
    database = Database(tmp_path / "a.sqlite", TABLES, "delete it", write_ahead)
    copy = pickle.loads(pickle.dumps(database))
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda n: (database, copy)[n % 2].write(INSERT, [(2 * n,), (2 * n + 1,)]), range(50)))
    assert numbers(database) == numbers(copy) == list(range(100))
    database.close()
    copy.close()


def test_of_rows_of_which_one_fails_none_is_written(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.sqlite", TABLES, "delete it")
    with pytest.raises(StoreError, match=r"cannot be written \(UNIQUE.*\)\.\n.*see to it"):
        database.write(INSERT, [(1,), (2,), (1,)])
    assert numbers(database) == []
    with pytest.raises(ZeroDivisionError):
        database.write(INSERT, ((1 // (2 - number),) for number in range(4)))
    assert numbers(database) == []
    database.write(INSERT, [(1,)])
    assert numbers(database) == [1]
    database.close()


def test_a_file_of_an_older_version_gets_the_column_it_lacks(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.sqlite") as older:
        older.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
        older.execute("INSERT INTO numbers VALUES (1)")
    older.close()
    for _ in range(2):
        database = Database(tmp_path / "a.sqlite", TABLES, "delete it")
        assert database.read("SELECT number, sha256 FROM numbers") == [(1, None)]
        database.close()


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_text("something else, and long enough to be told from an empty file\n" * 100)
    with pytest.raises(StoreError) as caught:
        Database(path, TABLES, "delete it")
    problem = "cannot be opened (file is not a database): it is damaged, or something else."
    assert str(caught.value) == f"{path}: {problem}\n  What to do:   delete it"
