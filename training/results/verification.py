"""Verification: compares the table of a finished run with ir-measures, computed from run.trec and the judgements.

The judgements are those of the source. trec_eval supports no fractional grades and no exponential gains; in these cases
scikit-learn computes ndcg.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table
from sklearn.metrics import dcg_score

from console.decimals import decimal
from console.tables import new_table
from features.building.extractor import Extractor
from rankers.judging.judging import RUN_DEPTH
from ranking.metrics import metric_name
from ranking.stores.candidate_pool import POOL, CandidatePool
from ranking.stores.format import format_of
from ranking.stores.group_store import GroupStore
from registry import EXTRACTORS, METRICS, ConfigError, RunConfig, load_config
from training.results.report import trec_id
from training.results.run_files import read_json, read_per_query, reading

TOLERANCE = 1e-6

# Queries with longer ties are not compared, because each place of a tie needs another run of ir-measures.
_LONGEST_TIE = 100
_HELD = 1_000_000  # the most lines of run files that ir-measures gets at once

Ranking = list[tuple[str, float]]


@dataclass(frozen=True)
class Check:
    """One metric of a run, computed twice.

    Args:
        metric: The metric's name.
        table: The run's own mean over the compared queries.
        measured: The mean that ir-measures computes; nan for a metric that ir-measures does not have.
        furthest: The largest difference on a single query.
        compared: How many queries were compared.
        left_out: How many were not compared, because of ties that are too long or continue after the end of run.trec.
    """

    metric: str
    table: float
    measured: float
    furthest: float
    compared: int
    left_out: int

    @property
    def known(self) -> bool:
        """Whether ir-measures has this metric."""
        return not math.isnan(self.measured)

    @property
    def equal(self) -> bool:
        """Whether both agree on every query; False if no query was compared."""
        return not self.known or (self.compared > 0 and self.furthest <= TOLERANCE)


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Args:
        run: The run's folder.
        judged_by: The source of the judgements.
        checks: The check of each metric.
    """

    run: Path
    judged_by: str
    checks: list[Check]

    @property
    def equal(self) -> bool:
        """Whether every metric that was compared agrees."""
        return all(check.equal for check in self.checks)

    def table(self) -> Table:
        """A table of both values of each metric, side by side."""
        columns = ("metric", "table", "ir-measures", "furthest apart", "queries", "left out")
        table = new_table(*columns, title=f"{self.run}: judged by {self.judged_by}")
        for check in self.checks:
            measured = [decimal(check.measured, 6), f"{check.furthest:.1e}"] if check.known else ["not known", ""]
            style = None if check.equal else "red"
            counts = f"{check.compared:,}", f"{check.left_out:,}"
            table.add_row(escape(check.metric), decimal(check.table, 6), *measured, *counts, style=style)
        return table


@dataclass(frozen=True)
class _Judgements:
    """Judgements by query and candidate, with ids as in run.trec."""

    grades: Mapping[str, Mapping[str, float]]
    min_label: float
    whole_pool: int | None
    judged_by: str

    def of(self, query: str) -> dict[str, float]:
        return {candidate: grade for candidate, grade in self.grades.get(query, {}).items() if grade > 0}

    def relevant(self, query: str) -> dict[str, int]:
        return {candidate: 1 for candidate, grade in self.of(query).items() if grade >= self.min_label}


def verify(run: Path) -> Verification:
    """Compare every metric of a run's table with the value from ir-measures, query by query.

    The metrics of tied candidates are means over their orders, so ir-measures judges several orders.

    Raises:
        ConfigError: If the folder contains no finished run, or ir-measures is not installed.
    """
    for name in ("config.yaml", "metrics.json", "per_query.csv", "run.trec"):
        if not (run / name).is_file():
            cure = "give the folder of a run; one that was stopped: python train.py --resume RUN"
            raise ConfigError(str(run), f"no finished run: there is no {name} in it.", cure=cure)
    config = load_config(run / "config.yaml", [])
    metrics = read_json(run / "metrics.json")
    rows = read_per_query(run / "per_query.csv", config.ranker["name"])
    if not rows:
        problem = f"has no line of {config.ranker['name']}."
        raise ConfigError(str(run / "per_query.csv"), problem, cure="test the run again, or compare its files")
    per_query = {trec_id(query): values for query, values in rows.items()}
    with _said_where_training_was_run(metrics.get("made_with", {}).get("folder")):
        judgements = _judgements(config)
    rankings = _rankings(run / "run.trec", per_query)
    if lacking := per_query.keys() - rankings.keys():
        problem = f"has no line of {len(lacking):,} of {len(per_query):,} queries, such as {min(lacking)}."
        raise ConfigError(str(run / "run.trec"), problem, cure="test the run again, or compare its files")
    nodes = {metric_name(node): METRICS.check(node) for node in config.ranker["metrics"]}
    checks = [_check(name, node, rankings, judgements, per_query) for name, node in nodes.items()]
    for check in checks:
        with reading(run / "metrics.json"):
            stated = metrics["test"]["scorers"][config.ranker["name"]][check.metric]["mean"]
        mean = sum(values[check.metric] for values in per_query.values()) / len(per_query)
        if abs(stated - mean) > TOLERANCE:
            raise ConfigError(
                str(run / "metrics.json"), f"{check.metric} is {stated}, but the mean of per_query.csv is {mean}."
            )
    return Verification(run, judgements.judged_by, checks)


@contextmanager
def _said_where_training_was_run(folder: str | None) -> Iterator[None]:
    """Add to the error of a missing file that paths are relative to the folder in which training was started."""
    try:
        yield
    except ConfigError as error:
        here, path = Path.cwd(), Path(error.path)
        if folder != str(here) and path.absolute().is_relative_to(here) and not path.exists():
            named = folder or "another folder, which this older run does not name"
            error.cure = f"training was run in {named}; run verify from there"
        raise


def _check(
    name: str,
    node: Mapping[str, Any],
    rankings: Mapping[str, Mapping[str, Ranking]],
    judgements: _Judgements,
    per_query: Mapping[str, Mapping[str, float]],
) -> Check:
    measure, by_grade = _measure(node)
    linear_gain = node.get("gain") != "exponential"
    table: list[float] = []
    measured: list[float] = []
    left_out = 0
    orders = _Orders(measure, by_grade, node.get("k"))
    if measure is None:
        values = [each[name] for each in per_query.values()]
        return Check(name, sum(values) / len(values), math.nan, 0.0, 0, 0)
    for query, draws in rankings.items():
        for draw, ranking in draws.items():
            grades = judgements.of(query) if by_grade else judgements.relevant(query)
            if judgements.whole_pool is None:  # a group: only drawn candidates could be found
                drawn = {candidate for candidate, _ in ranking}
                grades = {candidate: grade for candidate, grade in grades.items() if candidate in drawn}
            whole = all(float(grade).is_integer() for grade in grades.values())
            if by_grade and grades and not (whole and linear_gain):
                orders.add_value(query, draw, _ndcg(ranking, grades, node))
                continue
            ends_early = judgements.whole_pool is not None and RUN_DEPTH <= len(ranking) < judgements.whole_pool
            orders.add(query, draw, ranking, grades, ends_early=ends_early)
    found = orders.values()
    for query, values in per_query.items():
        if query in found:
            table.append(values[name])
            measured.append(found[query])
        else:
            left_out += 1
    furthest = max((abs(one - other) for one, other in zip(table, measured, strict=True)), default=0.0)
    count = max(1, len(table))
    return Check(name, sum(table) / count, sum(measured) / count, furthest, len(table), left_out)


class _Orders:
    """Orders of rankings whose weighted mean is the expectation over all orders of tied candidates.

    A metric is linear if it adds up one value per rank. For linear metrics, each tie is rotated while the others keep
    their order. For the rank of the first relevant candidate, only the first tie with a relevant candidate matters. Its
    first relevant candidate is put at each place once. The weight is the probability that, among n tied candidates with
    R relevant ones, the first relevant one is at this place.
    """

    def __init__(self, measure: Any, by_grade: bool, cutoff: int | None) -> None:
        self._measure, self._linear, self._cutoff = measure, by_grade or _is_linear(measure), cutoff
        self._qrels: list[Any] = []
        self._run: list[Any] = []
        self._weights: dict[str, tuple[str, float]] = {}
        self._sums: dict[str, float] = defaultdict(float)
        self._left_out: set[str] = set()
        self._draws: dict[str, set[str]] = defaultdict(set)

    def add(self, query: str, draw: str, ranking: Ranking, grades: Mapping[str, float], *, ends_early: bool) -> None:
        """Add all necessary orders of one ranking."""
        import ir_measures

        reach = self._cutoff or len(ranking)
        ties = [(start, end) for start, end in _ties(ranking, grades) if start < reach]
        ties = ties if self._linear else ties[:1]
        # The last tie may continue after the end of the file, with candidates that may be judged.
        last = next(place for place, (_, score) in enumerate(ranking) if score == ranking[-1][1])
        below = not grades.keys() <= dict(ranking).keys() or any(candidate in grades for candidate, _ in ranking[last:])
        cut = ends_early and last < reach and below
        decided = not self._linear and ties and ties[0][0] < last
        if any(end - start > _LONGEST_TIE for start, end in ties) or (cut and not decided):
            self._left_out.add(query)
            return
        self._draws[query].add(draw)
        ids = [candidate for candidate, _ in ranking]
        weighted = _turned(ids, ties) if self._linear else _first_at_each_place(ids, ties, grades)
        for order, weight in weighted:
            name = str(len(self._weights))
            self._weights[name] = query, weight
            shown = order[: self._cutoff] if self._cutoff else order
            self._run += [ir_measures.ScoredDoc(name, each, -float(rank)) for rank, each in enumerate(shown)]
            self._qrels += [ir_measures.Qrel(name, each, int(grade)) for each, grade in grades.items()]
            if not grades:
                self._qrels.append(ir_measures.Qrel(name, "", 0))
        if len(self._run) > _HELD:
            self._measure_all()

    def add_value(self, query: str, draw: str, value: float) -> None:
        """Add a value that was computed without ir-measures."""
        self._draws[query].add(draw)
        self._sums[query] += value

    def values(self) -> dict[str, float]:
        """The value of each query: the mean over its draws."""
        self._measure_all()
        return {
            query: self._sums[query] / len(draws) for query, draws in self._draws.items() if query not in self._left_out
        }

    def _measure_all(self) -> None:
        """Evaluate the collected orders with ir-measures, then drop them."""
        import ir_measures

        for value in ir_measures.iter_calc([self._measure], self._qrels, self._run):
            query, weight = self._weights[value.query_id]
            self._sums[query] += weight * value.value
        self._qrels, self._run, self._weights = [], [], {}


def _ties(ranking: Ranking, grades: Mapping[str, float]) -> Iterator[tuple[int, int]]:
    """The start and end of each tie whose candidates have different grades."""
    start = 0
    for place in range(1, len(ranking) + 1):
        if place < len(ranking) and ranking[place][1] == ranking[start][1]:
            continue
        if len({grades.get(candidate, 0) for candidate, _ in ranking[start:place]}) > 1:
            yield start, place
        elif any(candidate in grades for candidate, _ in ranking[start:place]):
            yield start, start  # nothing to rotate, but the first relevant candidate is here
        start = place


def _turned(ids: list[str], ties: Sequence[tuple[int, int]]) -> Iterator[tuple[list[str], float]]:
    mixed = [(start, end) for start, end in ties if end > start]
    yield ids, 1.0 - len(mixed)
    for start, end in mixed:
        for turn in range(start, end):
            yield ids[:start] + ids[turn:end] + ids[start:turn] + ids[end:], 1 / (end - start)


def _first_at_each_place(
    ids: list[str], ties: Sequence[tuple[int, int]], grades: Mapping[str, float]
) -> Iterable[tuple[list[str], float]]:
    from scipy.stats import nhypergeom

    if not ties or ties[0][0] == ties[0][1]:
        yield ids, 1.0
        return
    start, end = ties[0]
    right = [each for each in ids[start:end] if each in grades]
    wrong = [each for each in ids[start:end] if each not in grades]
    for before in range(len(wrong) + 1):
        order = [*ids[:start], *wrong[:before], *right, *wrong[before:], *ids[end:]]
        yield order, float(nhypergeom.pmf(before, end - start, len(wrong), 1))


def _ndcg(ranking: Ranking, grades: Mapping[str, float], node: Mapping[str, Any]) -> float:
    """Compute ndcg by scikit-learn, which also averages over ties."""
    exponential = node.get("gain") == "exponential"
    gains = {candidate: 2**grade - 1 if exponential else grade for candidate, grade in grades.items()}
    # scikit-learn refuses single candidates, so one without gain follows, which changes nothing.
    best = [sorted([*gains.values(), 0.0], reverse=True)]
    found = [[*(gains.get(candidate, 0.0) for candidate, _ in ranking), 0.0]]
    scores = [[*(score for _, score in ranking), math.nextafter(ranking[-1][1], -math.inf)]]
    return dcg_score(found, scores, k=node.get("k")) / dcg_score(best, best, k=node.get("k"))


def _measure(node: Mapping[str, Any]) -> tuple[Any, bool]:
    """The measure of ir-measures for a metric, and whether it uses grades; None if ir-measures has none."""
    try:
        import ir_measures
    except ModuleNotFoundError as error:
        raise ConfigError("verify", "needs ir-measures.", cure="pip install ir-measures") from error
    known = {
        "hit": ir_measures.Success,
        "mrr": ir_measures.RR,
        "ndcg": ir_measures.nDCG,
        "recall": ir_measures.R,
        "precision": ir_measures.P,
    }
    measure = known.get(node["name"])
    return (measure @ node["k"] if measure is not None and node.get("k") else measure), node["name"] == "ndcg"


def _is_linear(measure: Any) -> bool:
    return str(measure).partition("@")[0] in ("R", "P")


def _rankings(path: Path, queries: Collection[str]) -> dict[str, dict[str, Ranking]]:
    """The candidates and scores of a run file, by query and draw; `q#2` is the second draw of q if q is a query."""
    found: dict[str, dict[str, Ranking]] = defaultdict(lambda: defaultdict(list))
    with reading(path):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, candidate, _, score, _ = line.split()
            query, _, draw = (name, "", "1") if name in queries else name.rpartition("#")
            found[query][draw].append((candidate, float(score)))
    return found


def _judgements(config: RunConfig) -> _Judgements:
    """The judgements of the source if the config names it, else those of the store."""
    if config.features is not None:
        extractor: Extractor = EXTRACTORS.build(config.features, path="features")
        path = extractor.path
        if (judgements := extractor.judgements()) is not None:
            pool = CandidatePool.open(path) if format_of(path) == POOL.name else None
            grades = {
                trec_id(query): {trec_id(candidate): grade for candidate, grade in given.items()}
                for query, given in judgements
            }
            source = f"the source, {config.features['source']['name']}"
            return _Judgements(grades, pool.min_label if pool else 0, pool.num_candidates if pool else None, source)
    else:
        path = Path(config.datamodule["path"])
    return _of_pool(CandidatePool.open(path)) if format_of(path) == POOL.name else _of_groups(GroupStore.open(path))


def _of_pool(pool: CandidatePool) -> _Judgements:
    grades: dict[str, dict[str, float]] = {}
    known = pool.queries
    for query in range(known.num_queries):
        judged = grades[trec_id(known.id(query))] = {}
        for place in range(*known.relevant_offsets[query : query + 2].tolist()):
            judged[trec_id(pool.id(int(known.relevant[place])))] = float(known.label[place])
        for place in range(*known.missing_offsets[query : query + 2].tolist()):
            judged[f"not in the pool, {place}"] = float(known.missing[place])
    return _Judgements(grades, pool.min_label, pool.num_candidates, f"the pool {pool.path}")


def _of_groups(store: GroupStore) -> _Judgements:
    grades: dict[str, dict[str, float]] = {}
    for group in range(store.num_groups):
        slots = range(*store.offsets[group : group + 2].tolist())
        grades[trec_id(store.query_id(group))] = {
            trec_id(store.slot_id(slot)): float(store.label[slot]) for slot in slots
        }
    return _Judgements(grades, 0, None, f"the store {store.path}")
