"""pool_files: reads a pool and its queries from your own files: JSONL, TSV or Parquet, and TREC relevance."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, get_args

from features.reading.fields import (
    Record,
    as_id,
    as_label,
    checked_text,
    feature_field,
    id_field,
    text_field,
    unexpected,
)
from features.reading.judgements import read_judgements
from features.reading.lines import TextFile, number
from features.reading.records import Columns, RecordFile, find_files
from features.texts.groups import Split
from features.texts.pools import PoolQuery, PoolText
from registry import SOURCES, ConfigError
from registry.ranges import FilePath, NonNegative, Text

C = TypeVar("C", "CandidateColumns", "QueryColumns")

# Other common names of the columns `id` and `text`; they are used if the options have their defaults.
_NAMES = {
    "candidate_columns": {
        "id": ("_id", "docid", "doc_id", "document_id", "corpus_id", "corpus-id", "passage_id", "pid", "item_id"),
        "text": ("contents", "content", "passage", "document", "body"),
    },
    "query_columns": {
        "id": ("_id", "query_id", "query-id", "qid", "question_id"),
        "text": ("query", "question", "contents", "content"),
    },
}


@dataclass(frozen=True)
class CandidateColumns:
    """Names of the columns or fields of a candidate.

    Args:
        id: Column of the id, a text or an integer.
        text: Column of the text that rankers read.
        title: Column of a title, which is put before the text; null for none.
        feature: Column of a vector that was computed elsewhere; null for none.
    """

    id: Text = "id"
    text: Text = "text"
    title: Text | None = None
    feature: Text | None = None


@dataclass(frozen=True)
class QueryColumns:
    """Names of the columns or fields of a query.

    Args:
        id: Column of the id, a text or an integer.
        text: Column of the text that encoders and rankers read.
        relevant: Column of the relevant candidates: an id, a list of ids, or a mapping of ids to labels.
        split: Column of the split: train, val or test.
        history: Column of the ids of candidates that the query's user has seen, oldest first.
        candidates: Column of the ids of candidates that the query ranks, if it does not rank the whole pool.
        feature: Column of a vector that was computed elsewhere; null for none.
    """

    id: Text = "id"
    text: Text = "text"
    relevant: Text | None = None
    split: Text | None = None
    history: Text | None = None
    candidates: Text | None = None
    feature: Text | None = None


DEFAULT_CANDIDATE_COLUMNS, DEFAULT_QUERY_COLUMNS = CandidateColumns(), QueryColumns()


@SOURCES.register("pool_files")
class PoolFiles:
    """Reads `.jsonl`, `.json`, `.csv`, `.tsv` and `.parquet` files, by extension; all but the last may be gzipped.

    A path may be a pattern such as `part-*.jsonl.gz`. In TSV and CSV files, spaces separate the items of a list. CSV
    files name their columns in the first line, and fields may be quoted; in TSV files quotes are part of the text. If a
    file has no column `id` or `text`, other common names are recognized (`_id`, `docid`, `contents`, `query` ...).

    Args:
        candidates: The files of the pool: one path or several.
        queries: The files of the queries: one path or several; null for a pool without queries.
        qrels: Relevance files in TREC format, with `query 0 candidate label` or `query candidate label` on each line:
            one path or several. Labels of 0 and below mean not relevant; a query without a line is not judged. Tabs
            separate the fields if the first line has a tab, commas in `.csv` files, else spaces.
        min_label: The lowest label that counts as relevant in training and in metrics without grades, such as MRR; null
            for all labels above 0.
        candidate_columns: The names of a candidate's fields.
        query_columns: The names of a query's fields.
        candidate_tsv: The columns of TSV files of candidates, in order; `header` if the first line names them.
        query_tsv: The columns of TSV files of queries, in order; `header` if the first line names them.
        split: The split of queries that have none: train, val or test; null for none.
    """

    def __init__(
        self,
        candidates: FilePath | list[FilePath],
        queries: FilePath | list[FilePath] | None = None,
        qrels: FilePath | list[FilePath] | None = None,
        candidate_columns: CandidateColumns = DEFAULT_CANDIDATE_COLUMNS,
        query_columns: QueryColumns = DEFAULT_QUERY_COLUMNS,
        candidate_tsv: Columns = ["id", "text"],  # noqa: B006
        query_tsv: Columns = ["id", "text"],  # noqa: B006
        split: Split | None = None,
        min_label: NonNegative | None = None,
    ) -> None:
        self.paths = {"candidates": candidates, "queries": queries, "qrels": qrels}
        self.candidate_columns, self.query_columns = candidate_columns, query_columns
        self.candidate_tsv: Columns = candidate_tsv
        self.query_tsv: Columns = query_tsv
        self.split: Split | None = split
        self.min_label = min_label
        if queries is None and qrels is not None:
            raise ValueError("qrels without queries: set `queries`")
        if queries is not None and (qrels is None) == (query_columns.relevant is None):
            raise ValueError("set either `qrels` or `query_columns.relevant`, for the relevant candidates")

    def fingerprint(self) -> dict[str, Any]:
        """The name, size and hash of each file, and the options."""
        hashes = {kind: [TextFile(file.path).fingerprint for file in files] for kind, files in self._files.items()}
        columns = {"candidates": asdict(self.candidate_columns), "queries": asdict(self.query_columns)}
        options = {"columns": columns, "candidate_tsv": self.candidate_tsv, "query_tsv": self.query_tsv}
        least = {} if self.min_label is None else {"min_label": self.min_label}
        return {"name": "pool_files", **hashes, **options, "split": self.split, **least}

    @property
    def own_files(self) -> list[RecordFile | TextFile]:
        """The user's files, for a quick check before a run."""
        return [file.text if kind == "qrels" else file for kind, files in self._files.items() for file in files]

    def candidates(self) -> Iterator[PoolText]:
        """Yield every candidate, in the order of the files."""
        for file in self._files["candidates"]:
            columns = _columns(file, self.candidate_columns, "candidate_columns")
            yield from file.parsed(_names(columns), _CandidateReader(columns, file.form))

    def queries(self) -> Iterator[PoolQuery]:
        """Yield every query, in the order of the files."""
        for file in self._files["queries"]:
            columns = _columns(file, self.query_columns, "query_columns")
            yield from file.parsed(_names(columns), _QueryReader(columns, file.form, self._qrels, self.split))

    @cached_property
    def _files(self) -> dict[str, list[RecordFile]]:
        return {
            kind: [
                RecordFile(path, self.query_tsv if kind == "queries" else self.candidate_tsv)
                for path in find_files(paths, f"features.source.{kind}")
            ]
            for kind, paths in self.paths.items()
        }

    @cached_property
    def _qrels(self) -> dict[str, dict[str, float]]:
        relevant: dict[str, dict[str, float]] = {}
        for file in self._files["qrels"]:
            for query, candidate, label in read_judgements(file.text):
                grades = relevant.setdefault(query, {})
                if label > 0:
                    grades[candidate] = label
        return relevant


@dataclass(frozen=True)
class _CandidateReader:
    columns: CandidateColumns
    form: str

    def __call__(self, row: Record, place: str) -> PoolText:
        id, columns = id_field(row, self.columns.id), self.columns
        if columns.title and row.get(columns.title):
            # A title without text is allowed.
            title, text = checked_text(columns.title, row[columns.title]), row.get(columns.text) or ""
            if not isinstance(text, str):
                raise unexpected(columns.text, text, "text")
            return PoolText(id, f"{title} {text}".strip(), _vector(row, columns.feature, self.form), place)
        return PoolText(id, text_field(row, columns.text), _vector(row, columns.feature, self.form), place)


@dataclass(frozen=True)
class _QueryReader:
    columns: QueryColumns
    form: str
    qrels: Mapping[str, Mapping[str, float]]
    split: Split | None

    def __call__(self, row: Record, place: str) -> PoolQuery:
        id, columns = id_field(row, self.columns.id), self.columns
        split = (columns.split and row.get(columns.split)) or self.split
        if split not in (None, *get_args(Split)):
            raise unexpected(str(columns.split), split, "train, val or test")
        return PoolQuery(
            id,
            text_field(row, columns.text),
            self._labels(row, columns.relevant) if columns.relevant else self.qrels.get(id),
            split,
            history=self._ids(row, columns.history),
            candidates=self._ids(row, columns.candidates) or None,
            feature=_vector(row, columns.feature, self.form),
            origin=place,
        )

    def _labels(self, row: Record, key: str) -> dict[str, float]:
        value = row.get(key)
        if isinstance(value, list) and value and all(isinstance(each, tuple) for each in value):
            value = dict(value)  # a Parquet column of maps
        if isinstance(value, Mapping):
            # In a Parquet column of structs, every row has a field for each id of any row.
            labels = {id: as_label(f"{key}[{id!r}]", label) for id, label in value.items() if label is not None}
            return {id: label for id, label in labels.items() if label > 0}
        return dict.fromkeys(self._ids(row, key), 1.0)

    def _ids(self, row: Record, key: str | None) -> list[str]:
        """The ids in a field with one id or a list; empty if the field is missing, empty or null."""
        value = row.get(key) if key else None
        if value is None or value == "":
            return []
        if self.form in ("tsv", "csv"):
            return str(value).split()
        if isinstance(value, list):
            return [as_id(f"{key}[{place}]", each) for place, each in enumerate(value)]
        return [as_id(str(key), value)]


def _vector(row: Record, key: str | None, form: str) -> list[float] | None:
    if key is None:
        return None
    if form in ("tsv", "csv"):
        return [number(key, each) for each in str(row[key]).split()]
    return feature_field(row, key=key)


def _names(columns: CandidateColumns | QueryColumns) -> list[str]:
    return [name for name in asdict(columns).values() if name]


def _columns(file: RecordFile, columns: C, option: str) -> C:
    """The column names in a file; replaces the defaults `id` and `text` by other common names that the file has.

    Raises:
        ConfigError: If no column or several columns fit, or the first line names columns but would be read as data.
    """
    fields, chosen = file.fields, {}
    if not fields:
        return columns
    for column, others in _NAMES[option].items():
        wanted = getattr(columns, column)
        if wanted in fields or (column == "text" and getattr(columns, "title", None) in fields):
            continue  # a title without text is allowed
        found = [name for name in others if name in fields] if wanted == column else []
        if len(found) != 1:
            several = f", but {' and '.join(found)}" if found else ""
            tsv = file.form == "tsv"
            cure = f"set the right one: features.source.{option}.{column}={found[0] if found else 'NAME'}"
            if tsv and file.looks_like:
                cure = file.looks_like
            elif tsv:
                kind = option.removesuffix("_columns")
                cure += f"; features.source.{kind}_tsv names all columns of a TSV file, or is `header`"
            raise ConfigError(
                str(file.path), f"has no column {wanted!r}{several}.", given=wanted, known=fields, cure=cure
            )
        chosen[column] = found[0]
    if file.form == "tsv" and file.tsv_columns != "header":
        _refuse_header(file, option)
    return replace(columns, **chosen)


def _refuse_header(file: RecordFile, option: str) -> None:
    """Raise an error if the first line names the columns, because it would become a candidate or a query."""
    first = [name.strip().lower() for name in file.text.first_line().split("\t")]
    known = [{column, *others} for column, others in _NAMES[option].items()]
    if all(names.intersection(first) for names in known):
        kind = option.removesuffix("_columns")
        problem = f"its first line, {' '.join(first)!r}, names columns, but would be read as a {kind}."
        raise ConfigError(str(file.path), problem, cure=f"features.source.{kind}_tsv=header")
