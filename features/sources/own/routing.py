"""routing: reads queries with a score, and maybe a cost, for each language model that could answer them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from rich.console import Console

from features.reading.fields import LineError, Record, as_number, id_field, text_field, unexpected
from features.reading.lines import TextFile, number
from features.reading.records import RecordFile, find_files
from features.texts.groups import Candidate, Split, TextGroup
from registry import SOURCES, ConfigError
from registry.ranges import FilePath, NonNegative, Text


@dataclass(frozen=True)
class RoutingColumns:
    """Names of the columns or fields of the queries.

    Args:
        id: Column of the query's id; where it is missing, equal texts are one query.
        query: Column of the query's text.
        scores: Column of a mapping of models to scores, in files with one row per query.
        costs: Column of a mapping of models to costs, in files with one row per query.
        model: Column of the model's id, in files with one row per query and model.
        score: Column of its score, in files with one row per query and model.
        cost: Column of its cost, in files with one row per query and model.
        split: Column of the split: train, val or test.
    """

    id: Text = "query_id"
    query: Text = "query"
    scores: Text = "scores"
    costs: Text = "costs"
    model: Text = "model"
    score: Text = "score"
    cost: Text = "cost"
    split: Text = "split"


@dataclass(frozen=True)
class Balance:
    """What a label is made of: performance * score - cost * scaled cost, with the costs of all rows scaled to [0, 1].

    Args:
        performance: Weight of the score.
        cost: Weight of the cost.
    """

    performance: NonNegative = 1.0
    cost: NonNegative = 0.0


DEFAULT_COLUMNS, DEFAULT_BALANCE = RoutingColumns(), Balance()


@SOURCES.register("routing")
class Routing:
    """Groups whose candidates are language models; the label says how well a model answers the query, and how cheaply.

    Queries: `{query_id, query, scores: {model: score}, costs?: {model: cost}, split?}` in each row of a JSONL, JSON or
    Parquet file, or a row per query and model with `query_id, query, model, score, cost?, split?`, also in CSV or TSV.
    Models: `{id, text?, cost?}` or `{id, text?, input_price, output_price}`; the text describes the model to rankers.
    A model's own cost, or the mean of its prices, stands where a query has none for it.

    What is missing is counted and printed: scores (the model is no candidate for the query), costs, and queries that
    all models answer equally well, on which no router can gain but by costs.

    Args:
        queries: The files of queries and scores: one path or several.
        models: The files of models: one path or several; null if ids are all that is known of models.
        balance: How a label is made of a score and a cost, such as `{performance: 0.5, cost: 0.5}`.
        columns: The names of a query's fields.
        equal_scores: Queries for which all models have the same score: `keep` them, or `drop` them.
        missing_costs: If labels depend on costs, models without a cost for a query: `error` refuses them, `drop` leaves
            them out.
    """

    def __init__(
        self,
        queries: FilePath | list[FilePath],
        models: FilePath | list[FilePath] | None = None,
        balance: Balance = DEFAULT_BALANCE,
        columns: RoutingColumns = DEFAULT_COLUMNS,
        equal_scores: Literal["keep", "drop"] = "keep",
        missing_costs: Literal["error", "drop"] = "error",
    ) -> None:
        if not balance.performance and not balance.cost:
            raise ValueError("balance: both weights are 0, so all labels would be equal")
        self.paths = {"queries": queries, "models": models}
        self.balance, self.columns = balance, columns
        self.equal_scores, self.missing_costs = equal_scores, missing_costs
        self._told = False

    def fingerprint(self) -> dict[str, Any]:
        """The name, size and hash of each file, and the options."""
        hashes = {kind: [TextFile(file.path).fingerprint for file in files] for kind, files in self._files.items()}
        options = {"balance": asdict(self.balance), "columns": asdict(self.columns)}
        missing = {"equal_scores": self.equal_scores, "missing_costs": self.missing_costs}
        return {"name": "routing", **hashes, **options, **missing}

    @property
    def own_files(self) -> list[RecordFile]:
        """The user's files, for a quick check before a run."""
        return [file for files in self._files.values() for file in files]

    def groups(self) -> Iterator[TextGroup]:
        """Yield every query, in the order of the files.

        Raises:
            ConfigError: If rows are bad, no query has a score, or costs are missing that labels depend on.
        """
        models = self.models
        reader = _Reader(self.columns, models)
        for file in self._files["queries"]:
            names = [name for name in asdict(self.columns).values() if name in file.fields]
            for _ in file.parsed(names, reader.of(file)):
                pass
        if not any(query.scores for query in reader.queries.values()):
            raise ConfigError(str(self.paths["queries"]), "no query has a score.", cure="set features.source.queries")
        scale = _Scale.of(reader.queries.values())
        counts: Counter[str] = Counter()
        for query in reader.queries.values():
            if (group := self._group(query, scale, counts)) is not None:
                yield group
        if counts["no cost"] and self.balance.cost and self.missing_costs == "error":
            problem = f"{counts['no cost']:,} of {counts['score']:,} costs are missing; labels depend on them."
            cure = "features.source.missing_costs=drop, or features.source.balance.cost=0"
            raise ConfigError("features.source.balance.cost", problem, given=self.balance.cost, cure=cure)
        self._tell(counts, len(set(models) - reader.scored))

    def _group(self, query: "_Query", scale: "_Scale", counts: Counter[str]) -> TextGroup | None:
        """A query with the models that were tried on it; None if it is left out."""
        counts["query"] += 1
        counts["score"] += len(query.scores)
        counts["no score"] += query.num_missing
        counts["no cost"] += sum(query.costs.get(model) is None for model in query.scores)
        equal = len(query.scores) > 1 and len(set(query.scores.values())) == 1
        counts["equal"] += equal
        if equal and self.equal_scores == "drop":
            return None
        candidates = [
            Candidate(
                model,
                self.models.get(model, _Model(model)).text,
                self._label(score, scale.of_cost(cost)),
                performance=score,
                cost=cost,
            )
            for model, score in query.scores.items()
            for cost in (query.costs.get(model),)
            if cost is not None or not self.balance.cost or self.missing_costs == "error"
        ]
        counts["empty"] += not candidates
        return (
            TextGroup(query.id, query.text, candidates, split=query.split, origin=query.origin) if candidates else None
        )

    def _label(self, score: float, cost: float | None) -> float:
        paid = self.balance.cost * (cost or 0.0)
        return self.balance.performance * score - paid

    @cached_property
    def models(self) -> dict[str, "_Model"]:
        """The models that the files describe, by their ids."""
        models: dict[str, _Model] = {}
        for file in self._files["models"]:
            for model in file.parsed((), _model):
                if models.setdefault(model.id, model) is not model:
                    raise ConfigError(str(file.path), f"the id {model.id!r} is there twice.", cure="name each once")
        texts = Counter(model.text for model in models.values())
        if twice := next((text for text, times in texts.items() if times > 1), None):
            same = " and ".join(model.id for model in models.values() if model.text == twice)
            problem = f"{same} have the same text, so rankers could not tell them apart."
            raise ConfigError(str(self.paths["models"]), problem, cure="describe each model in its own words")
        return models

    @cached_property
    def _files(self) -> dict[str, list[RecordFile]]:
        return {
            kind: [RecordFile(path) for path in find_files(paths, f"features.source.{kind}")]
            for kind, paths in self.paths.items()
        }

    def _tell(self, counts: Counter[str], unscored: int) -> None:
        if self._told:
            return
        self._told = True
        queries, scores = f"of {counts['query']:,} queries", f"of {counts['score'] + counts['no score']:,} scores"
        on_them = "only costs tell these apart" if self.balance.cost else "no router can gain on them"
        done = ", and are left out" if self.equal_scores == "drop" else f"; {on_them}"
        lines = {
            "equal": f"{counts['equal']:,} {queries} have the same score for all models{done}.",
            "no score": f"{counts['no score']:,} {scores} are missing: these models are no candidates there.",
            "no cost": f"{counts['no cost']:,} of {counts['score']:,} costs are missing.",
            "empty": f"{counts['empty']:,} {queries} have no model to choose, and are left out.",
        }
        told = [line for name, line in lines.items() if counts[name]]
        if unscored:
            told.append(f"{unscored:,} of {len(self.models):,} models have no score for any query.")
        for line in told:
            Console(stderr=True).print(line, highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True)
class _Model:
    """A model: what describes it, and what an answer of it costs."""

    id: str
    described: str | None = None
    cost: float | None = None

    @property
    def text(self) -> str:
        """The description, or the id if there is none."""
        return self.described or self.id


@dataclass
class _Query:
    """A query with what is known of each model's answer to it."""

    id: str
    text: str
    split: Split | None
    origin: str
    scores: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float | None] = field(default_factory=dict)
    num_missing: int = 0


@dataclass(frozen=True)
class _Scale:
    """The smallest and the largest of all costs, which stand for 0 and 1."""

    low: float
    high: float

    @classmethod
    def of(cls, queries: Any) -> "_Scale":
        costs = [cost for query in queries for cost in query.costs.values() if cost is not None]
        return cls(min(costs, default=0.0), max(costs, default=0.0))

    def of_cost(self, cost: float | None) -> float | None:
        if cost is None or self.high == self.low:
            return None if cost is None else 0.0
        return (cost - self.low) / (self.high - self.low)


@dataclass
class _Reader:
    """Reads rows of either form into queries."""

    columns: RoutingColumns
    models: Mapping[str, _Model]
    queries: dict[str, _Query] = field(default_factory=dict)
    scored: set[str] = field(default_factory=set)

    def of(self, file: RecordFile) -> Any:
        """The function that reads a row of a file."""
        fields = file.fields
        in_text = file.form in ("tsv", "csv")
        if fields and self.columns.scores not in fields and self.columns.model not in fields:
            problem = (
                f"has neither {self.columns.scores!r} (a row per query) nor {self.columns.model!r} (one per model)."
            )
            raise ConfigError(str(file.path), problem, known=fields, cure="set features.source.columns")

        def read(row: Record, place: str) -> None:
            whole = self.columns.scores in row
            query = self._query(row, place, once=whole)
            scores, costs = self._mappings(row) if whole else self._pair(row)
            for model, value in scores.items():
                self._add(query, model, _value(model, value, in_text), _value(model, costs.get(model), in_text))

        return read

    def _query(self, row: Record, place: str, *, once: bool) -> _Query:
        text = text_field(row, self.columns.query)
        id = id_field(row, self.columns.id) if row.get(self.columns.id) is not None else text
        split = row.get(self.columns.split) or None
        if split not in (None, *get_args(Split)):
            raise unexpected(self.columns.split, split, "train, val or test")
        query = self.queries.get(id)
        if query is None:
            name = id if id != text else f"q{len(self.queries)}"
            query = self.queries[id] = _Query(name, text, split, place)
        elif once:
            raise LineError(self.columns.id, f"{id!r} was already used in {query.origin}")
        elif (text, split) != (query.text, query.split):
            raise LineError(self.columns.query, f"differs from the text or split of {id!r} in {query.origin}")
        return query

    def _mappings(self, row: Record) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        found = []
        for name in (self.columns.scores, self.columns.costs):
            value = row.get(name)
            if isinstance(value, list) and all(isinstance(each, tuple) for each in value):
                value = dict(value)  # a Parquet column of maps
            if value is None and name == self.columns.costs:
                value = {}
            if not isinstance(value, Mapping):
                raise unexpected(name, value, "an object with a number for each model")
            found.append(value)
        return found[0], found[1]

    def _pair(self, row: Record) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        model = id_field(row, self.columns.model)
        return {model: row.get(self.columns.score)}, {model: row.get(self.columns.cost)}

    def _add(self, query: _Query, model: str, score: float | None, cost: float | None) -> None:
        if self.models and model not in self.models:
            raise LineError(
                self.columns.model, f"found {model!r}, which is not among the models", "add it to the models"
            )
        if model in query.scores:
            raise LineError(self.columns.model, f"{model!r} is there twice for the query {query.id!r}")
        if score is None:
            query.num_missing += 1
            return
        query.scores[model] = score
        query.costs[model] = cost if cost is not None or not self.models else self.models[model].cost
        self.scored.add(model)


def _model(row: Record, place: str) -> _Model:
    text = text_field(row, "text") if row.get("text") else None
    cost = _value("cost", row.get("cost"), isinstance(row.get("cost"), str))
    prices = [_value(name, row.get(name), isinstance(row.get(name), str)) for name in ("input_price", "output_price")]
    known = [price for price in prices if price is not None]
    if cost is None and known:
        cost = sum(known) / len(known)
    return _Model(id_field(row, "id"), text, cost)


def _value(field: str, value: Any, in_text: bool) -> float | None:
    """A number; None where there is none."""
    if value is None or value == "":
        return None
    if in_text:
        return number(field, str(value))
    return float(value) if isinstance(value, bool) else as_number(field, value)
