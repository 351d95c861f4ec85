"""FeedbackDatabase: what users said, their heads and these heads' versions, in SQLite or PostgreSQL."""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, and_, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from registry import ConfigError
from serving.feedback.tables import feedback, heads, users, versions

KEPT = 5
"""How many of its newest versions a head keeps."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x72616E6B
"""PostgreSQL's advisory lock for the migrations: any number that nobody else uses."""
_CONNECTING, _STATEMENT = 5, 10
"""Seconds until PostgreSQL has to answer: to a new connection, and to a statement or a packet of one."""

_BUSY, _EMPTYING = 20_000, 200
"""Milliseconds for which SQLite waits for others: to read and write, and to overwrite its log."""


class UnknownVersionError(LookupError):
    """A user has no such version."""


class OtherContentError(ValueError):
    """An idempotency key was used before, with other feedback."""


class Of(NamedTuple):
    """Whose head over which base: the ranker's name, the user, and the sha256 of the base's weights."""

    ranker: str
    user: str
    base: str


class Given(NamedTuple):
    """Feedback as it is kept: which of the user's it is, from 1, and whether it was there already."""

    number: int
    was_there: bool


@dataclass(frozen=True)
class Lease:
    """The right to train a head, until it ends or the user is forgotten.

    Args:
        of: Whose head.
        token: Known to the holder alone.
        version: The id of the present head; None for the base.
        num_feedback: How much feedback the user has given so far.
    """

    of: Of
    token: str
    version: str | None
    num_feedback: int


class FeedbackDatabase:
    """A database of feedback: every method is one transaction, and what it has written is on the disk when it returns.

    Methods wait for the database, so an event loop calls them in a thread.

    Args:
        url: A file for SQLite, or a URL of SQLAlchemy, such as postgresql://user@host/name.

    Raises:
        ConfigError: If the database cannot be opened, is in memory, or was written by a newer version of the server.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = _url(url)
        self.name = self.url.render_as_string(hide_password=True)
        self._is_sqlite = self.url.get_backend_name() == "sqlite"
        if self._is_sqlite and self.url.database in (None, "", ":memory:"):
            raise ConfigError("--database", f"{self.name} is in memory, which every thread has of its own.", cure=_CURE)
        options: dict[str, Any] = {} if self._is_sqlite else {"pool_pre_ping": True, "connect_args": _waits(self.url)}
        self._emptying, self._has_deleted = threading.Lock(), False
        """Whether SQLite's log still has what was deleted."""
        self._used: set[Any] = set()
        """PostgreSQL's connections that a thread has at present."""
        try:
            # Errors are logged, and parameters are what users said.
            self._engine = sa.create_engine(self.url, hide_parameters=True, **options)
            event.listen(self._engine, "connect", _sqlite if self._is_sqlite else _postgresql)
            if self._is_sqlite:
                event.listen(self._engine, "begin", _begin)
            else:
                event.listen(self._engine, "checkout", lambda connection, record, proxy: self._used.add(connection))
                for end in ("checkin", "close"):
                    event.listen(self._engine, end, lambda connection, record: self._used.discard(connection))
            with self._writing() as connection:
                self._migrate(connection)
        except (SQLAlchemyError, ImportError) as error:
            raise ConfigError("--database", f"{self.name} cannot be opened: {_reason(error)}.", cure=_CURE) from error
        except CommandError as error:
            problem = f"{self.name} was written by a newer version of this program: {error}."
            raise ConfigError("--database", problem, cure="use that version, or another database") from error

    def add(self, ranker: str, user: str, content: Mapping[str, Any], key: str | None = None) -> Given:
        """Keep a user's feedback; with a key that was used before nothing is added.

        Args:
            ranker: The name of the ranker.
            user: The user.
            content: What was said, as plain values.
            key: The idempotency key.

        Raises:
            OtherContentError: If the key was used before, with other content.
        """
        # In ASCII, because PostgreSQL refuses the letter 0, which JSON writes as \u0000.
        text = json.dumps(content, sort_keys=True)
        whose = {"ranker": ranker, "user": user}
        with self._writing() as connection:
            number = self._one_more(connection, ranker, user)
            if key is not None:
                found = select(feedback.c.number, feedback.c.content).where(
                    *_is(feedback, whose), feedback.c.key == key
                )
                if (before := connection.execute(found).one_or_none()) is not None:
                    connection.rollback()
                    if before.content != text:
                        raise OtherContentError
                    return Given(before.number, True)
            row = {**whose, "number": number, "key": key, "content": text, "created": time.time()}
            connection.execute(sa.insert(feedback).values(row))
            return Given(number, False)

    def feedback(self, ranker: str, user: str, newest: int) -> list[tuple[int, dict[str, Any]]]:
        """A user's newest feedback, oldest first, each with its number."""
        found = select(feedback.c.number, feedback.c.content).where(*_is(feedback, {"ranker": ranker, "user": user}))
        with self._reading() as connection:
            rows = connection.execute(found.order_by(feedback.c.number.desc()).limit(newest)).all()
        return [(row.number, json.loads(row.content)) for row in reversed(rows)]

    def version(self, of: Of) -> str | None:
        """The id of the version of a head that is in use; None for the base."""
        with self._reading() as connection:
            return connection.execute(select(heads.c.version).where(*_is(heads, of._asdict()))).scalar_one_or_none()

    def weights(self, version: str) -> tuple[int, bytes] | None:
        """The number and the weights of a version; None if it is no longer kept."""
        with self._reading() as connection:
            found = select(versions.c.number, versions.c.weights).where(versions.c.id == version)
            row = connection.execute(found).one_or_none()
        return None if row is None else (row.number, row.weights)

    def lease(self, bases: Mapping[str, str], least: int, seconds: float) -> Lease | None:
        """Take the right to train one head for which there is enough new feedback; None if there is none.

        Args:
            bases: The sha256 of the base of each ranker that can be trained here.
            least: How much new feedback is enough.
            seconds: After how long somebody else may take over.
        """
        joined = and_(heads.c.ranker == users.c.ranker, heads.c.user == users.c.user)
        for ranker, base in bases.items():
            with self._writing() as connection:
                now = self._now(connection)
                of_base = users.outerjoin(heads, and_(joined, heads.c.base == base))
                due = (
                    select(users.c.user, users.c.num_feedback)
                    .select_from(of_base)
                    .where(
                        users.c.ranker == ranker,
                        users.c.num_feedback - func.coalesce(heads.c.num_learnt, 0) >= least,
                        func.coalesce(heads.c.leased_until, 0.0) < now,
                    )
                    .order_by((users.c.num_feedback - func.coalesce(heads.c.num_learnt, 0)).desc())
                    .limit(1)
                )
                # Others that look for work at the same time skip this user's row.
                row = connection.execute(due.with_for_update(of=users, skip_locked=True)).one_or_none()
                if row is None:
                    continue
                of = Of(ranker, row.user, base)
                self._make_head(connection, of)
                token = secrets.token_hex(16)
                took = connection.execute(
                    sa.update(heads)
                    .where(*_is(heads, of._asdict()), heads.c.leased_until < now)
                    .values(token=token, leased_until=now + seconds)
                    .returning(heads.c.version)
                ).one_or_none()
                if took is not None:
                    return Lease(of, token, took.version, row.num_feedback)
        return None

    def finish(
        self, lease: Lease, report: Mapping[str, Any], weights: bytes | None = None, *, to_base: bool = False
    ) -> int | None:
        """End a training: replace the head, if there is a better one, in one step.

        Args:
            lease: The right to do so.
            report: What came of it, as plain values.
            weights: The new head; None to keep the present one.
            to_base: Whether to go back to the base.

        Returns:
            The number of the new version; None if there is none, also because the lease was lost, the user was
            forgotten, or the user went back to another version meanwhile.
        """
        now, version, number = time.time(), secrets.token_hex(16), None
        mine = [*_is(heads, lease.of._asdict()), heads.c.token == lease.token]
        with self._writing() as connection:
            held = select(heads.c.version, heads.c.num_versions).where(*mine).with_for_update()
            if (row := connection.execute(held).one_or_none()) is None:
                return None
            done: dict[str, Any] = {"token": None, "leased_until": 0.0, "num_learnt": lease.num_feedback}
            if row.version == lease.version:
                done["last"] = json.dumps({**report, "created": now})
                if weights is not None:
                    number = row.num_versions + 1
                    done |= {"version": version, "num_versions": number}
                elif to_base:
                    done["version"] = None
            connection.execute(sa.update(heads).where(*mine).values(done))
            if number is not None:
                new = {"id": version, **lease.of._asdict(), "number": number, "weights": weights}
                connection.execute(sa.insert(versions).values(**new, report=json.dumps(report), created=now))
                old = and_(*_is(versions, lease.of._asdict()), versions.c.number <= number - KEPT)
                connection.execute(sa.delete(versions).where(old))
        return number

    def renew(self, lease: Lease, seconds: float) -> None:
        """Keep the right to train a head for longer, unless it was lost."""
        self._end_lease(lease, lease.token, seconds)

    def give_up(self, lease: Lease, seconds: float) -> None:
        """Let somebody else train a head, after some seconds."""
        self._end_lease(lease, None, seconds)

    def roll_back(self, of: Of, number: int) -> None:
        """Use a version of a head that is kept; 0 is the base.

        Raises:
            UnknownVersionError: If it is not kept.
        """
        known = select(users.c.user).where(*_is(users, {"ranker": of.ranker, "user": of.user}))
        with self._writing() as connection:
            # Locked, so that nobody forgets the user meanwhile.
            if connection.execute(known.with_for_update()).one_or_none() is None:
                raise UnknownVersionError
            self._make_head(connection, of)
            connection.execute(select(heads.c.version).where(*_is(heads, of._asdict())).with_for_update())
            found = select(versions.c.id).where(*_is(versions, of._asdict()), versions.c.number == number)
            version = connection.execute(found).scalar_one_or_none() if number else None
            if number and version is None:
                raise UnknownVersionError
            connection.execute(sa.update(heads).where(*_is(heads, of._asdict())).values(version=version))

    def describe(self, user: str, bases: Mapping[str, str]) -> list[dict[str, Any]]:
        """What is kept of a user for each ranker: feedback, versions, and what came of the last training."""
        found = []
        with self._reading() as connection:
            now = self._now(connection)
            for row in connection.execute(select(users).where(users.c.user == user).order_by(users.c.ranker)).all():
                of = Of(row.ranker, user, bases.get(row.ranker, ""))
                head = connection.execute(select(heads).where(*_is(heads, of._asdict()))).one_or_none()
                kept = connection.execute(
                    select(versions).where(*_is(versions, of._asdict())).order_by(versions.c.number.desc())
                ).all()
                in_use = None if head is None else head.version
                found.append(
                    {
                        "model": row.ranker,
                        "feedback": row.num_feedback,
                        "learnt": 0 if head is None else head.num_learnt,
                        "is_training": head is not None and head.token is not None and head.leased_until > now,
                        "version": next((each.number for each in kept if each.id == in_use), 0),
                        "versions": [
                            {"version": each.number, "created": each.created, **json.loads(each.report)}
                            for each in kept
                        ],
                        "last_training": None if head is None or head.last is None else json.loads(head.last),
                    }
                )
        return found

    def forget(self, user: str) -> dict[str, int]:
        """Delete everything of a user; returns how many rows of each kind there were."""
        with self._writing() as connection:
            # The user's rows first: feedback that is being added waits for them, and is then that of a new user.
            counts = {
                table.name: connection.execute(sa.delete(table).where(table.c.user == user)).rowcount
                for table in (users, heads, versions, feedback)
            }
        if self._is_sqlite:
            self._empty_log()
        return {name: counts[name] for name in ("feedback", "versions")}

    def close(self) -> None:
        """Close all connections; a thread that still waits for PostgreSQL gets an error, so that it ends."""
        for connection in list(self._used):
            # It may be closed by now.
            with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as its:
                its.shutdown(socket.SHUT_RDWR)
        self._engine.dispose()

    def _empty_log(self) -> None:
        """Overwrite SQLite's log, in which what was deleted still stands; if others read it, after a later transaction.

        The file itself has zeros in its place.
        """
        with self._emptying, self._engine.connect().execution_options(is_bare=True) as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {_EMPTYING}")
            is_busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {_BUSY}")
            self._has_deleted = bool(is_busy)

    def _end_lease(self, lease: Lease, token: str | None, seconds: float) -> None:
        mine = [*_is(heads, lease.of._asdict()), heads.c.token == lease.token]
        with self._writing() as connection:
            until = self._now(connection) + seconds
            connection.execute(sa.update(heads).where(*mine).values(token=token, leased_until=until))

    def _one_more(self, connection: Connection, ranker: str, user: str) -> int:
        """Count one more piece of a user's feedback; locks the user until the transaction ends."""
        row = {"ranker": ranker, "user": user, "num_feedback": 1, "created": time.time()}
        upsert: Any = self._insert(users).values(row)
        upsert = upsert.on_conflict_do_update(
            index_elements=["ranker", "user"], set_={"num_feedback": users.c.num_feedback + 1}
        )
        return connection.execute(upsert.returning(users.c.num_feedback)).scalar_one()

    def _make_head(self, connection: Connection, of: Of) -> None:
        row = {**of._asdict(), "num_versions": 0, "num_learnt": 0, "leased_until": 0.0}
        connection.execute(self._insert(heads).values(row).on_conflict_do_nothing())

    def _insert(self, table: sa.Table) -> Any:
        return sqlite.insert(table) if self._is_sqlite else postgresql.insert(table)

    def _now(self, connection: Connection) -> float:
        """The time in seconds: PostgreSQL's own, because the clocks of several servers differ."""
        if self._is_sqlite:
            return time.time()
        return float(connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.connect().execution_options(is_writing=True) as connection:
            yield connection
            connection.commit()
        if self._has_deleted:
            self._empty_log()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection

    def _migrate(self, connection: Connection) -> None:
        if not self._is_sqlite:  # another server may be at it, and tables may be large
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        # In this transaction only one server at a time changes the tables.
        connection.execute(select(1) if self._is_sqlite else select(func.pg_advisory_xact_lock(_LOCK)))
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


_CURE = 'give a file, a URL such as postgresql://user@host/name (pip install "psycopg[binary]"), or off'


def _url(given: str | Path) -> URL:
    if isinstance(given, Path) or "://" not in given:
        return URL.create("sqlite", database=str(given))
    try:
        url = make_url(given)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError("--database", "is no URL of a database.", cure=_CURE) from error
    if backend == "postgres" or url.drivername == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend not in ("postgresql", "sqlite"):
        raise ConfigError("--database", f"{backend} is not supported.", cure=_CURE)
    return url


def _waits(url: URL) -> dict[str, Any]:
    """How long a connection waits for PostgreSQL, unless the URL says so."""
    waits = {"connect_timeout": _CONNECTING, "tcp_user_timeout": 1000 * _STATEMENT}
    return {name: value for name, value in waits.items() if name not in url.query}


def _is(table: sa.Table, values: Mapping[str, str]) -> Sequence[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in values.items()]


def _reason(error: Exception) -> str:
    """The first line of an error, without the statement and its values."""
    return (str(getattr(error, "orig", None) or error).splitlines() or [""])[0].rstrip(".")


def _sqlite(connection: Any, record: Any) -> None:
    # Python's module would begin transactions late, and let a reader become a writer, which SQLite may refuse.
    connection.isolation_level = None
    for line in (f"busy_timeout = {_BUSY}", "journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
        connection.execute(f"PRAGMA {line}")


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get("is_bare"):
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("is_writing") else "BEGIN")


def _postgresql(connection: Any, record: Any) -> None:
    connection.execute("SET synchronous_commit = on")
    connection.execute(f"SET statement_timeout = {1000 * _STATEMENT}")
    connection.commit()
