"""Personal: 10,000 users' rankers in one process: their memory, and a change of user against scoring alone."""

import copy
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.comparison import Comparison, Ratio, in_turns, seconds_of
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from rankers.base import Ranker
from rankers.language_ranker.list_ranker import ListRanker
from ranking.batch import FeatureBatch
from serving.personal import PersonalRankers

_RANK, _NUM_CANDIDATES, _CHANGES = 4, 10, 200
_DRAWN = 20


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5) -> Comparison:
    """Fill one process with users' rankers, and score one query for one user after another, in random order.

    Args:
        data: Unused.
        workload: `TINY` for few users.
        repeats: How often each way runs.
    """
    num_users, feature_dim = (50, 32) if workload == TINY else (10_000, 384)
    torch.manual_seed(0)
    base, batch = ListRanker(feature_dim).eval(), one_query(feature_dim, _NUM_CANDIDATES)
    works: dict[str, Callable[[], Any]] = {"score": partial(_score, base, batch, _CHANGES)}
    ways = {"score": f"one query of {_NUM_CANDIDATES} candidates by the base, {_CHANGES} times: the floor"}
    facts: dict[str, Any] = {"users": num_users, "feature_dim": feature_dim, "ranker": "list_ranker, float32"}
    facts["weights"] = sum(weight.numel() for weight in base.parameters())
    for name, rank in (("whole", None), (f"rank {_RANK}", _RANK)):
        before = resident_bytes()
        personal, seconds, error = fill(base, num_users, rank)
        floor = num_users * personal.bytes_per_user
        facts[name] = {
            "bytes_per_user": personal.bytes_per_user,
            "gigabytes": (resident_bytes() - before) / 1e9,
            "memory / bytes of the differences": (resident_bytes() - before) / floor,
            "milliseconds to add a user": 1000 * seconds,
            "error of random differences": error,
        }
        order = torch.randint(num_users, (_CHANGES,), generator=torch.Generator().manual_seed(1)).tolist()
        works[name] = partial(_score_each, personal, [f"user {place}" for place in order], batch)
        ways[name] = f"the same for {_CHANGES} random users, differences {name}, float16"
    times = in_turns({name: partial(seconds_of, work) for name, work in works.items()}, repeats)
    for name in ("whole", f"rank {_RANK}"):
        changed = (sum(times[name]) - sum(times["score"])) / (repeats * _CHANGES)
        facts[name]["milliseconds to change the user"] = 1000 * changed
    ratios = [Ratio("whole", "score", at_most=2), Ratio(f"rank {_RANK}", "score", at_most=2)]
    return Comparison("personal", "what do 10,000 personal rankers cost?", ways, times, ratios, facts)


def fill(base: Ranker[Any], num_users: int, rank: int | None) -> tuple[PersonalRankers, float, float]:
    """Rankers of many users; also the seconds to add one, and the error of the last one.

    Some users' weights are drawn at random, and all others have copies of these users' numbers: that costs no time, and
    takes the same memory.
    """
    personal, seconds, error = PersonalRankers(base, rank), 0.0, 0.0
    drawn = min(_DRAWN, num_users)
    for place in range(drawn):
        user = copy.deepcopy(base)
        with torch.no_grad():
            for weight in user.parameters():
                weight += 0.01 * torch.randn_like(weight)
        started = time.perf_counter()
        error = personal.add(f"user {place}", user)
        seconds += time.perf_counter() - started
    for place in range(drawn, num_users):
        personal._rows[f"user {place}"] = personal._rows[f"user {place % drawn}"].clone()
    return personal, seconds / drawn, error


def one_query(feature_dim: int, num_candidates: int) -> FeatureBatch:
    """A query and its candidates, as random vectors."""
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(feature_dim, generator=draw)
    return FeatureBatch.of_group(query, torch.randn(num_candidates, feature_dim, generator=draw))


def resident_bytes() -> int:
    """The memory of this process that is not on disk only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@torch.inference_mode()
def _score(ranker: Ranker[Any], batch: FeatureBatch, times: int) -> None:
    for _ in range(times):
        ranker(batch)


def _score_each(personal: PersonalRankers, users: list[str], batch: FeatureBatch) -> None:
    for user in users:
        personal.score(user, batch)
