"""The database of feedback, in SQLite and in PostgreSQL: what it keeps, who may train, and what it forgets."""

import json
import socket
import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from registry import ConfigError
from serving.feedback.database import FeedbackDatabase, Lease, Of, OtherContentError, UnknownVersionError
from serving.feedback.tables import metadata

BASES = {"r": "base"}
ANA = Of("r", "ana", "base")


@pytest.fixture
def connect(database_url: str) -> Iterator[Callable[[], FeedbackDatabase]]:
    """Opens the database of a test, as often as wished; all connections are closed after it."""
    with ExitStack() as stack:

        def open_database() -> FeedbackDatabase:
            database = FeedbackDatabase(database_url)
            stack.callback(database.close)
            return database

        yield open_database


Connect = Callable[[], FeedbackDatabase]


def leased(database: FeedbackDatabase, least: int = 1, seconds: float = 60) -> Lease:
    lease = database.lease(BASES, least, seconds)
    assert lease is not None
    return lease


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_postgresql_that_says_nothing_is_given_up(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setattr("serving.feedback.database._CONNECTING", 2)
    with pytest.raises(ConfigError, match=r"cannot be opened: .*timeout"):
        FeedbackDatabase(f"postgresql://tests@127.0.0.1:{silent}/feedback")


def test_postgresql_has_limits_of_which_the_url_may_change_those_of_connections(postgres: str) -> None:
    def limits(url: str) -> tuple[str, str, str]:
        database = FeedbackDatabase(url)
        with database._reading() as connection:
            statement = connection.execute(sa.text("SHOW statement_timeout")).scalar_one()
            driver: Any = connection.connection.driver_connection
            told = driver.info.get_parameters()
        database.close()
        return statement, told["connect_timeout"], told["tcp_user_timeout"]

    assert limits(postgres) == ("10s", "5", "10000")
    assert limits(f"{postgres}?connect_timeout=9") == ("10s", "9", "10000")


def test_a_thread_that_waits_for_postgresql_ends_when_the_database_is_closed(postgres: str) -> None:
    database = FeedbackDatabase(postgres)
    waits = threading.Event()

    def wait() -> None:
        with database._reading() as connection:
            waits.set()
            connection.execute(sa.text("SELECT pg_sleep(9)"))

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(wait)
        assert waits.wait(30)
        database.close()
        with pytest.raises(sa.exc.DBAPIError):
            waiting.result(5)


def test_feedback_is_numbered_and_comes_back_as_it_was_given(connect: Connect) -> None:
    database = connect()
    texts = ["", "\0", "\U0001f600 \u202e", 'a"\\b\n', "ж" * 5000]
    for place, text in enumerate(texts):
        assert database.add("r", "ana", {"text": text}) == (place + 1, False)
    assert database.add("r", "'; drop table users --", {}).number == 1
    assert database.add("other", "ana", {}).number == 1
    again = connect()  # the migrations are there already
    assert again.feedback("r", "ana", 100) == [(place + 1, {"text": text}) for place, text in enumerate(texts)]
    assert [number for number, _ in again.feedback("r", "ana", 2)] == [4, 5]


def test_a_key_makes_repeated_feedback_count_once(connect: Connect) -> None:
    database = connect()
    assert database.add("r", "ana", {"a": 1, "b": 2}, "key") == (1, False)
    assert database.add("r", "ana", {"b": 2, "a": 1}, "key") == (1, True)
    assert database.add("r", "ben", {"a": 3}, "key") == (1, False)
    with pytest.raises(OtherContentError):
        database.add("r", "ana", {"a": 2}, "key")
    assert database.add("r", "ana", {"a": 2}) == (2, False)
    assert database.describe("ana", BASES)[0]["feedback"] == 2


def test_feedback_that_comes_at_the_same_time_to_two_servers_is_all_kept(connect: Connect) -> None:
    databases = [connect() for _ in range(2)]

    def add(place: int) -> int:
        key = f"key {place // 2}" if place < 10 else None
        return databases[place % 2].add("r", "ana", {"place": place if key is None else key}, key).number

    with ThreadPoolExecutor(6) as threads:
        numbers = list(threads.map(add, range(40)))
    assert numbers[0:10:2] == numbers[1:10:2]
    assert sorted(set(numbers)) == list(range(1, 36))
    assert [number for number, _ in databases[0].feedback("r", "ana", 100)] == list(range(1, 36))


def test_one_server_at_a_time_trains_a_head_until_its_time_is_over(connect: Connect) -> None:
    one, other = connect(), connect()
    for user in ("ana", "ana", "ben"):
        one.add("r", user, {})
    assert one.lease(BASES, 3, 60) is None and one.lease({"other": "base"}, 1, 60) is None
    first = leased(one, seconds=0.0)
    assert (first.of, first.num_feedback, first.version) == (ANA, 2, None)
    second = leased(other)
    assert second.of == ANA and second.token != first.token, "the first one has not renewed its lease"
    assert leased(one).of.user == "ben" and one.lease(BASES, 1, 60) is None
    assert one.finish(first, {}, b"late") is None and one.version(ANA) is None
    one.renew(first, 0.0)
    assert other.finish(second, {}, b"in time") == 1
    version = one.version(ANA)
    assert version is not None and one.weights(version) == (1, b"in time")
    assert one.lease(BASES, 1, 60) is None, "nothing new was said"


def test_two_servers_that_look_for_work_at_once_share_it(connect: Connect) -> None:
    databases = [connect() for _ in range(2)]
    for place in range(12):
        databases[0].add("r", f"user {place}", {})

    def work(database: FeedbackDatabase) -> list[str]:
        found = []
        while (lease := database.lease(BASES, 1, 60)) is not None:
            found.append(lease.of.user)
        return found

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(work, databases)
    # One of them may end early, when the row that it wanted was locked by the other.
    assert sorted([*one, *other]) == sorted(f"user {place}" for place in range(12))


def test_a_failed_training_is_tried_again_later(connect: Connect) -> None:
    database = connect()
    database.add("r", "ana", {})
    database.give_up(leased(database), 60)
    assert database.lease(BASES, 1, 60) is None
    assert not database.describe("ana", BASES)[0]["is_training"]


def test_the_newest_versions_are_kept_and_can_be_gone_back_to(connect: Connect) -> None:
    database = connect()
    for number in range(1, 8):
        database.add("r", "ana", {})
        assert database.finish(leased(database), {"held_out": number}, f"weights {number}".encode()) == number
    (found,) = database.describe("ana", BASES)
    assert [each["version"] for each in found["versions"]] == [7, 6, 5, 4, 3]
    assert found["version"] == 7 and found["learnt"] == 7 and found["last_training"]["held_out"] == 7
    database.roll_back(ANA, 4)
    version = database.version(ANA)
    assert version is not None and database.weights(version) == (4, b"weights 4")
    for number in (2, 8):
        with pytest.raises(UnknownVersionError):
            database.roll_back(ANA, number)
    with pytest.raises(UnknownVersionError):
        database.roll_back(Of("r", "nobody", "base"), 0)
    database.roll_back(ANA, 0)
    assert database.version(ANA) is None and database.describe("ana", BASES)[0]["version"] == 0
    assert database.describe("ana", {"r": "another base"})[0]["versions"] == []


def test_what_a_user_went_back_to_during_a_training_stays(connect: Connect) -> None:
    database = connect()
    for _ in range(2):
        database.add("r", "ana", {})
        lease = leased(database)
        database.finish(lease, {}, b"weights")
    database.add("r", "ana", {})
    lease = leased(database)
    database.roll_back(ANA, 1)
    assert database.finish(lease, {}, b"new") is None
    (found,) = database.describe("ana", BASES)
    assert found["version"] == 1 and len(found["versions"]) == 2 and not found["is_training"]


def test_a_training_can_keep_the_head_or_go_back_to_the_base(connect: Connect) -> None:
    database = connect()
    for weights, to_base, version in ((b"a", False, 1), (None, False, 1), (None, True, 0)):
        database.add("r", "ana", {})
        assert database.finish(leased(database), {"to_base": to_base}, weights, to_base=to_base) == (
            1 if weights else None
        )
        (found,) = database.describe("ana", BASES)
        assert found["version"] == version and found["last_training"]["to_base"] == to_base


def test_a_user_who_is_forgotten_during_a_training_stays_forgotten(connect: Connect) -> None:
    database = connect()
    database.add("r", "ana", {})
    assert database.finish(leased(database), {}, b"weights") == 1
    database.add("r", "ana", {})
    lease = leased(database)
    database.add("r", "ben", {})
    assert database.forget("ana") == {"feedback": 2, "versions": 1}
    assert database.finish(lease, {}, b"weights") is None
    assert database.describe("ana", BASES) == [] and database.version(ANA) is None
    assert database.forget("ana") == {"feedback": 0, "versions": 0}
    assert database.describe("ben", BASES)[0]["feedback"] == 1


def test_a_user_who_goes_back_while_being_forgotten_stays_forgotten(connect: Connect) -> None:
    database, other = connect(), connect()
    database.add("r", "ana", {})
    with ThreadPoolExecutor(1) as threads:
        with database._engine.connect().execution_options(is_writing=True) as forgetting:
            forgetting.execute(sa.delete(metadata.tables["users"]))
            going = threads.submit(other.roll_back, ANA, 0)
            wait([going], timeout=0.5)
            forgetting.commit()
        with pytest.raises(UnknownVersionError):
            going.result()
    with database._engine.connect() as connection:
        assert connection.execute(sa.select(metadata.tables["heads"])).all() == []


def test_texts_that_are_forgotten_while_others_read_the_file_are_nowhere_in_it_soon_after(tmp_path: Path) -> None:
    database = FeedbackDatabase(tmp_path / "feedback.sqlite")
    database.add("r", "ana", {"query": "a secret text"})
    with closing(sqlite3.connect(tmp_path / "feedback.sqlite", isolation_level=None)) as backup:
        backup.execute("BEGIN")
        assert backup.execute("SELECT count(*) FROM feedback").fetchone() == (1,)
        assert database.forget("ana")["feedback"] == 1
        backup.execute("ROLLBACK")
    assert database.lease(BASES, 1, 60) is None, "a server looks for work every few seconds"
    assert not any(b"secret" in file.read_bytes() for file in tmp_path.iterdir())


def test_forgotten_texts_are_nowhere_in_the_files(tmp_path: Path) -> None:
    database = FeedbackDatabase(tmp_path / "feedback.sqlite")
    for _ in range(50):
        database.add("r", "secretive", {"text": "a secret of hers"})
    database.add("r", "ben", {"text": "no secret"})
    assert database.forget("secretive")["feedback"] == 50
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"a secret" not in content and b"secretive" not in content and b"no secret" in content


def test_the_migrations_make_the_tables_that_the_code_uses(connect: Connect) -> None:
    database = connect()
    with database._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_sqlite_waits_for_the_disk(tmp_path: Path) -> None:
    database = FeedbackDatabase(tmp_path / "feedback.sqlite")
    with database._engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere/feedback.sqlite", "cannot be opened: unable to open database file"),
        ("mysql://me:secret@host/name", "mysql is not supported"),
        ("nosuch://host", "nosuch is not supported"),
        ("://", "is no URL of a database"),
        (
            "postgresql://me:secret@127.0.0.1:1/name",
            r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/name cannot be opened",
        ),
    ],
)
def test_a_database_that_cannot_be_opened_is_named_without_its_password(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        FeedbackDatabase(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_or_a_newer_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(ConfigError, match="file is not a database"):
        FeedbackDatabase(tmp_path / "text")
    newer = FeedbackDatabase(tmp_path / "newer")
    with newer._engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="was written by a newer version of this program"):
        FeedbackDatabase(tmp_path / "newer")


@pytest.mark.parametrize("where", [":memory:", "sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(where: str) -> None:
    with pytest.raises(ConfigError, match=r"--database: .* is in memory, which every thread has of its own"):
        FeedbackDatabase(where)


def test_what_users_said_is_in_no_message_of_a_database_that_fails(connect: Connect) -> None:
    database, words = connect(), "private {}".format("words")  # lines of this file stand in a traceback too
    with database._engine.begin() as connection:
        metadata.tables["feedback"].drop(connection)
    with pytest.raises(sa.exc.SQLAlchemyError) as caught:
        database.add("r", "ana", {"query": words})
    assert words not in "".join(traceback.format_exception(caught.value))


def test_descriptions_are_plain_values(tmp_path: Path) -> None:
    database = FeedbackDatabase(tmp_path / "feedback.sqlite")
    database.add("r", "ana", {})
    database.finish(leased(database), {"held_out": 1}, b"weights")
    found: Any = database.describe("ana", BASES)
    assert json.loads(json.dumps(found)) == found
