"""Shown: what a run's page shows and no other file of the run holds: some queries with their texts, and the scores."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.base import RankingData
from ranking.evaluation import Judged, Standing
from training.results.report import Report

SHOWN = "report.json"

_NUM_QUERIES, _NUM_CANDIDATES, _NUM_BELOW = 50, 10, 5
_NUM_BINS = 40
# The longest texts are cut further until all of them together fit, so that the page can be sent by mail.
_LENGTHS, _BUDGET = (2_000, 1_000, 500, 250, 100), 1_250_000
_LONGEST_ID = 200


def shown(report: Report, evaluation: Judged, datamodule: RankingData, metric: str) -> dict[str, Any]:
    """The queries that the ranker wins and loses by most against the best reference, and histograms of scores.

    Args:
        report: The results on the test queries.
        evaluation: The scores they come from.
        datamodule: The texts.
        metric: By which queries are won and lost.
    """
    reference = report.best_baseline(metric)
    ours = report.per_query[report.name][metric]
    theirs = report.per_query[reference][metric] if reference else torch.full_like(ours, torch.nan)
    gains = ours - theirs if reference else ours
    known = gains.isfinite().nonzero().flatten()
    order = known[gains[known].argsort(descending=True, stable=True)].tolist()
    won, lost = (int((sign * gains[known] > 0).sum()) if reference else 0 for sign in (1, -1))
    places = order if len(order) <= 2 * _NUM_QUERIES else [*order[:_NUM_QUERIES], *order[-_NUM_QUERIES:]]
    queries = [report.queries[place] for place in places]
    standings = [_first(evaluation.standings(query, reference, _NUM_CANDIDATES)) for query in queries]
    texts = _Texts(datamodule, queries, standings)
    return {
        "metric": metric,
        "reference": reference,
        "queries": len(report.queries),
        "won": won,
        "lost": lost,
        "tied": len(known) - won - lost if reference else 0,
        "length": texts.length,
        "scores": _histograms(*evaluation.right_and_wrong()),
        "shown": [
            {
                "id": datamodule.query_id(query)[:_LONGEST_ID],
                "text": texts.query(query),
                "ours": _plain(ours[place]),
                "theirs": _plain(theirs[place]),
                "candidates": [
                    {
                        "rank": each.rank,
                        "score": None if each.score is None else _plain(torch.tensor(each.score)),
                        "label": _plain(torch.tensor(each.label)),
                        "ranks": each.ranks,
                        "id": datamodule.candidate_id(each.candidate)[:_LONGEST_ID],
                        "text": texts.candidate(each.candidate),
                    }
                    for each in standing
                ],
            }
            for place, query, standing in zip(places, queries, standings, strict=True)
        ],
    }


class _Texts:
    """Texts of queries and candidates, cut to the largest length at which all of them fit together."""

    def __init__(
        self, datamodule: RankingData, queries: Sequence[int], standings: Sequence[Sequence[Standing]]
    ) -> None:
        candidates = [each.candidate for standing in standings for each in standing]
        self._queries = _heads(datamodule.query_text, queries)
        self._candidates = _heads(datamodule.candidate_text, candidates)
        used = [*(self._queries[query] for query in queries), *(self._candidates[each] for each in candidates)]
        sizes = ((length, sum(_size(text[:length]) for text, _ in used)) for length in _LENGTHS)
        self.length = next((length for length, size in sizes if size <= _BUDGET), _LENGTHS[-1])

    def query(self, query: int) -> dict[str, Any]:
        return self._cut(*self._queries[query])

    def candidate(self, candidate: int) -> dict[str, Any]:
        return self._cut(*self._candidates[candidate])

    def _cut(self, text: str, whole: int) -> dict[str, Any]:
        """The beginning of a text, and how many characters it had."""
        return {"start": text[: self.length], "characters": whole}


def _heads(read: Callable[[int], str], places: Sequence[int]) -> dict[int, tuple[str, int]]:
    texts = ((place, read(place)) for place in dict.fromkeys(places))
    return {place: (text[: _LENGTHS[0]], len(text)) for place, text in texts}


def _size(text: str) -> int:
    """Bytes of a text in HTML, where a few letters become entities of at most six."""
    return len(text.encode(errors="replace")) + 5 * sum(map(text.count, "&<>\"'"))


def _first(standings: Sequence[Standing]) -> list[Standing]:
    return [each for place, each in enumerate(standings) if place < _NUM_CANDIDATES + _NUM_BELOW]


def _histograms(right: Tensor, wrong: Tensor) -> dict[str, list[float]] | None:
    """How many right and wrong candidates have scores in each of some equal ranges; None without finite scores."""
    right, wrong = (scores[scores.isfinite()].double() for scores in (right, wrong))
    every = torch.cat([right, wrong])
    if not len(every):
        return None
    low, high = float(every.min()), float(every.max())
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    counts = [torch.histc(scores, _NUM_BINS, low, high).long().tolist() for scores in (right, wrong)]
    edges = torch.linspace(low, high, _NUM_BINS + 1, dtype=torch.float64).tolist()
    return {"edges": edges, "right": counts[0], "wrong": counts[1]}


def _plain(value: Tensor) -> float | None:
    return float(value) if math.isfinite(value) else None
