"""Heads: 10,000 users' heads as a server has them, read from SQLite, against scoring by the ranker alone."""

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa
import torch

from benchmarks.comparison import Comparison, Ratio, in_turns, seconds_of
from benchmarks.speed.serving.personal import fill, one_query, resident_bytes
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from rankers.language_ranker.list_ranker import ListRanker
from ranking.batch import FeatureBatch
from serving.feedback.database import FeedbackDatabase
from serving.feedback.heads import Head, Heads
from serving.feedback.tables import heads as head_table
from serving.feedback.tables import users as user_table
from serving.feedback.tables import versions as version_table

_NUM_CANDIDATES, _CHANGES, _REPLACED = 10, 200, 20
_LEAST, _TOGETHER = 5, 500


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5) -> Comparison:
    """Read all heads into one process, then score a query for one user after another, in random order.

    Args:
        data: Unused.
        workload: `TINY` for few users.
        repeats: How often each way runs.
    """
    num_users, feature_dim = (50, 32) if workload == TINY else (10_000, 384)
    torch.manual_seed(0)
    base, batch = ListRanker(feature_dim).eval(), one_query(feature_dim, _NUM_CANDIDATES)
    order = torch.randint(num_users, (_CHANGES,), generator=torch.Generator().manual_seed(1)).tolist()
    users = [f"user {place}" for place in order]
    with TemporaryDirectory() as folder, closing(FeedbackDatabase(Path(folder) / "feedback.sqlite")) as database:
        held, read = Heads("base", base, database, num_users), Heads("base", base, database, 1)
        seconds = {"write all": seconds_of(partial(_write, database, held, base, num_users))}
        before = resident_bytes()
        seconds["read all"] = seconds_of(lambda: [held.head(f"user {place}") for place in range(num_users)])
        memory = resident_bytes() - before
        floor = num_users * held._rankers.bytes_per_user
        seconds["replace one"] = seconds_of(lambda: [_replace(database, held) for _ in range(_REPLACED)]) / _REPLACED
        works: dict[str, Callable[[], Any]] = {
            "score": lambda: _score([held.base] * _CHANGES, batch),
            "held": lambda: _score(map(held.head, users), batch),
            "read": lambda: _score(map(read.head, users), batch),
        }
        times = in_turns({name: partial(seconds_of, work) for name, work in works.items()}, repeats)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    change = {name: (sum(times[name]) - sum(times["score"])) / (repeats * _CHANGES) for name in ("held", "read")}
    facts = {
        "users": num_users,
        "weights": sum(weight.numel() for weight in base.parameters()),
        "gigabytes in memory": memory / 1e9,
        "memory / bytes of the differences": memory / floor,
        "gigabytes on disk": size / 1e9,
        "seconds to read all heads": seconds["read all"],
        "milliseconds to change to a user in memory": 1000 * change["held"],
        "milliseconds to change to a user on disk": 1000 * change["read"],
        "milliseconds to take feedback, lease and replace a head": 1000 * seconds["replace one"],
    }
    ways = {
        "score": f"one query of {_NUM_CANDIDATES} candidates by the base, {_CHANGES} times: the floor",
        "held": f"the same for {_CHANGES} random users whose heads are in memory, the newest version looked up",
        "read": "the same for users whose heads are read from the database",
    }
    ratios = [Ratio("held", "score"), Ratio("read", "score")]
    return Comparison("heads", "what do 10,000 users' heads cost a server?", ways, times, ratios, facts)


def _write(database: FeedbackDatabase, heads: Heads, base: ListRanker, num_users: int) -> None:
    """Put heads of many users into the database, as trainings would leave them, but in one transaction."""
    personal, _, _ = fill(base, num_users, None)
    now = time.time()
    with database._writing() as connection:
        for start in range(0, num_users, _TOGETHER):
            run = range(start, min(start + _TOGETHER, num_users))
            whose = [heads.of(f"user {place}")._asdict() for place in run]
            states = {"num_versions": 1, "num_learnt": _LEAST, "leased_until": 0.0}
            ids = [f"{place:032x}" for place in run]
            given = [{"ranker": each["ranker"], "user": each["user"], "num_feedback": _LEAST} for each in whose]
            connection.execute(sa.insert(user_table), [{**each, "created": now} for each in given])
            rows = [{**each, **states, "version": id} for each, id in zip(whose, ids, strict=True)]
            connection.execute(sa.insert(head_table), rows)
            rows = [
                {
                    **each,
                    "id": id,
                    "number": 1,
                    "report": "{}",
                    "created": now,
                    "weights": personal.difference(each["user"]),
                }
                for each, id in zip(whose, ids, strict=True)
            ]
            connection.execute(sa.insert(version_table), rows)


def _replace(database: FeedbackDatabase, heads: Heads) -> None:
    """What the database does from a user's feedback to the new head in use, without the training itself."""
    user = "user 0"
    for number in range(_LEAST):
        database.add(heads.name, user, {"number": number})
    lease = database.lease({heads.name: heads.base_sha256}, _LEAST, 60)
    assert lease is not None and lease.version is not None
    found = database.weights(lease.version)
    assert found is not None
    assert database.finish(lease, {}, found[1]) == heads.head(user).version


@torch.inference_mode()
def _score(heads: Iterable[Head], batch: FeatureBatch) -> None:
    for head in heads:
        head.score(batch)
