"""Learning: a user's head from the base and the user's feedback; part of the feedback decides whether it is used."""

import copy
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import connection, parent_process
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from rankers.base import Ranker
from rankers.checkpoint import load_ranker
from ranking.batch import FeatureBatch
from ranking.losses import pairwise_logistic
from serving.personal import PersonalRankers
from serving.reranker import Score

HELD_OUT_EVERY = 5
"""Every fifth piece of a user's feedback, counted from the first one, is never trained on: it decides."""

_STEPS, _LEARNING_RATE = 60, 1e-3


class Labelled(NamedTuple):
    """One piece of feedback as vectors: which of the user's it is, the query, its candidates, and their labels."""

    number: int
    query: Float[np.ndarray, " D"]
    candidates: Float[np.ndarray, "K D"]
    labels: Sequence[float]


@dataclass(frozen=True)
class Learnt:
    """What came of a training.

    Args:
        weights: The new head, if it is better than the present one; None to keep that one, or to go back to the base.
        to_base: Whether the base is better than the present head and the new one.
        report: How well each of them does on the held-out feedback, and how long it took, as plain values.
    """

    weights: bytes | None
    to_base: bool
    report: dict[str, Any]


def is_held_out(number: int) -> bool:
    """Whether a piece of feedback is held out.

    >>> [number for number in range(1, 12) if is_held_out(number)]
    [5, 10]
    """
    return number % HELD_OUT_EVERY == 0


def learn(folder: str, given: Sequence[Labelled], present: bytes | None) -> Learnt:
    """Train a head for a user from the base, and compare it with the present head and the base on held-out feedback.

    A head is compared by the share of pairs of candidates that it orders as the user did, then by its loss. What is as
    good as the present head does not replace it.

    Args:
        folder: The base, as `save_pretrained` writes it.
        given: All feedback that is to be used.
        present: The present head, as `PersonalRankers.difference` returns it; None for the base.
    """
    started = time.perf_counter()
    base = _base(folder)
    told = [each for each in given if not is_held_out(each.number)]
    held_out = [each for each in given if is_held_out(each.number)]
    report: dict[str, Any] = {"feedback": len(given), "held_out": len(held_out)}
    if not told or not held_out:
        return Learnt(None, False, report | {"outcome": "too little feedback"})
    heads, judged = PersonalRankers(base), batch_of(held_out)
    heads.add("new", train(base, batch_of(told)))
    scorers: dict[str, Score] = {"present": base, "base": base, "new": heads.ranker("new")}
    if present is not None:
        heads.restore("present", present)
        scorers["present"] = heads.ranker("present")
    found = {name: judge(scorer, judged) for name, scorer in scorers.items()}
    # The first of equals stays.
    best = max(found, key=lambda name: found[name])
    report |= {
        "outcome": {"present": "kept the present head", "base": "back to the base", "new": "a new head"}[best],
        **{name: round(value.share, 4) for name, value in found.items()},
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Learnt(heads.difference("new") if best == "new" else None, best == "base", report)


class Judged(NamedTuple):
    """The share of pairs that are ordered as a user did, equal scores counting half, and minus the mean loss."""

    share: float
    minus_loss: float


@torch.inference_mode()
def judge(score: Score, batch: FeatureBatch) -> Judged:
    """How well a ranker orders labelled candidates: the mean over groups, so that each piece of feedback counts once.

    Args:
        score: The ranker.
        batch: Groups with labels.
    """
    scores = score(batch).float()
    is_pair = (batch.labels.unsqueeze(2) > batch.labels.unsqueeze(1)) & batch.mask.unsqueeze(1)
    apart = scores.unsqueeze(2) - scores.unsqueeze(1)
    right = ((apart > 0).float() + 0.5 * (apart == 0).float()) * is_pair
    share = right.sum(dim=(1, 2)) / is_pair.sum(dim=(1, 2))
    return Judged(float(share.mean()), -float(pairwise_logistic(scores, batch.labels, batch.mask)))


def train(base: Ranker[Any], batch: FeatureBatch) -> Ranker[Any]:
    """A copy of the base that has been trained on all of a user's feedback at once, step by step.

    Args:
        base: The ranker that training starts from.
        batch: The feedback.
    """
    head = copy.deepcopy(base)
    weights = [weight for weight in head.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=_LEARNING_RATE, weight_decay=0.0)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        pairwise_logistic(head(batch).float(), batch.labels, batch.mask).backward()
        optimizer.step()
    return head.eval()


def batch_of(given: Sequence[Labelled]) -> FeatureBatch:
    """The groups of several pieces of feedback as one batch, padded; labels become 0, 1, 2 ... in their order."""
    counts = torch.tensor([len(each.labels) for each in given])
    mask = torch.arange(int(counts.max())) < counts.unsqueeze(1)
    labels, index = torch.zeros(mask.shape), torch.zeros(mask.shape, dtype=torch.int64)
    places = [np.unique(np.asarray(each.labels, dtype=np.float64), return_inverse=True)[1] for each in given]
    labels[mask] = torch.from_numpy(np.concatenate(places)).float()
    index[mask] = torch.arange(int(counts.sum()))
    return FeatureBatch(
        labels=labels,
        mask=mask,
        group=torch.arange(len(given)),
        slot=torch.where(mask, index, -1),
        unique_queries=torch.from_numpy(np.stack([each.query for each in given])),
        unique_candidates=torch.from_numpy(np.concatenate([each.candidates for each in given])),
        query_index=torch.arange(len(given)),
        candidate_index=index,
    )


def prepare_process() -> None:
    """Make a process one that trains beside a server: one thread, yielding to others, ending when the server does."""
    torch.set_num_threads(1)
    os.nice(10)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = parent_process()
    assert server is not None

    def end_with_server() -> None:
        connection.wait([server.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_server, daemon=True).start()


@lru_cache(maxsize=8)
def _base(folder: str) -> Ranker[Any]:
    return load_ranker(folder)
