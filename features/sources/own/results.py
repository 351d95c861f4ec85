"""results: reads the result files of other tools, with responses that were recorded or judged elsewhere."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from features.reading.fields import LineError, Record, unexpected, unicode_text
from features.reading.lines import TextFile
from features.reading.records import RecordFile, find_files
from features.texts.prompts import plain
from features.texts.tasks import Response, Task, TaskSource
from features.verification.answers import statement
from registry import SOURCES, ConfigError, Node
from registry.ranges import FilePath

_FORMS = """human-eval's and EvalPlus's samples {task_id, completion or solution}, BFCL's {id, result}, ZeroEval's
{output, answer}, or lm-eval's {doc, target, resps}"""
_QUERIES = ("question", "problem", "query", "prompt", "input", "Question", "Problem")
_ANSWERS = ("correct_answer", "answer", "reference", "label")
_SCORES = ("exact_match", "acc", "pass@1", "pass_at_1", "score")


class _Row(NamedTuple):
    """One row of a result file: the id of its task, the query and reference if it has them, and its responses."""

    id: str
    query: str | None
    reference: Any
    texts: list[str]
    label: float | None


@SOURCES.register("results")
class Results:
    """Reads recorded responses from the result files of other tools, as these write them.

    The files of human-eval and EvalPlus (`task_id`, and `completion` or `solution`; `passed` is a label), BFCL (`id`
    and `result`), ZeroEval (`output`, with the answer) and lm-eval (`doc`, `target` and `resps`; its metric is a
    label). Rows of the same task become one task with several responses.

    Args:
        path: A file (`.jsonl`, `.json`, `.parquet`), a pattern, or a list of these.
        tasks: The source of the tasks, whose references count more than those in the files; null uses those in the
            files, and for ids of HumanEval, MBPP+ and BFCL the published tasks.
    """

    def __init__(self, path: FilePath | list[FilePath], tasks: Annotated[Node, SOURCES] | None = None) -> None:
        self.path, self.tasks = path, tasks

    def fingerprint(self) -> dict[str, Any]:
        """The name, size and hash of each file, and the tasks."""
        tasks = self._source.fingerprint() if self._source else None
        return {"name": "results", "files": [TextFile(file).fingerprint for file in self.files], "tasks": tasks}

    @cached_property
    def files(self) -> list[Path]:
        """The files to read.

        Raises:
            ConfigError: If there are none.
        """
        return find_files(self.path, "features.source.path")

    def problems(self) -> Iterator[Task]:
        """Yield each task of the files with its responses, in the order of its first row.

        Raises:
            ConfigError: If a row has no known form, or the tasks lack one of them.
        """
        tasks = self._known
        for id, rows in self._rows.items():
            task = tasks.get(_short(id)) if tasks is not None else None
            if tasks is not None and task is None:
                given = f"{len(tasks):,} tasks of {self._name}"
                raise ConfigError(str(self.path), f"task {id!r} is not among the {given}.", cure="set source.tasks")
            first = rows[0]
            if task is None:
                query = first.query or ""
                task = Task(id, query, plain(query), first.reference)
            texts: dict[str, float | None] = {}
            for row in rows:
                for text in row.texts:
                    if row.label is not None or text not in texts:
                        texts[text] = row.label
            responses = [Response(str(place), text, label) for place, (text, label) in enumerate(texts.items())]
            yield replace(task, responses=responses)

    @cached_property
    def _rows(self) -> dict[str, list[_Row]]:
        found: dict[str, list[_Row]] = {}
        for file in self.files:
            for row in RecordFile(file).parsed((), _read):
                found.setdefault(row.id, []).append(row)
        return found

    @property
    def _name(self) -> Node | None:
        """The source of the tasks: as set, or by the first id if the rows have no reference."""
        if self.tasks is not None:
            return self.tasks
        id, rows = next(iter(self._rows.items()))
        return next((name for name, pattern in _BY_ID.items() if pattern.match(id) and rows[0].reference is None), None)

    @cached_property
    def _source(self) -> TaskSource | None:
        return None if self._name is None else SOURCES.build(self._name, path="features.source.tasks")

    @cached_property
    def _known(self) -> dict[str, Task] | None:
        return None if self._source is None else {_short(task.query_id): task for task in self._source.problems()}


_BY_ID = {
    "humaneval": re.compile(r"HumanEval/\d+$"),
    "mbpp_plus": re.compile(r"Mbpp/\d+$"),
    "bfcl": re.compile(r"(?:simple|multiple|parallel)\w*_\d+$"),
}


def _short(id: str) -> str:
    """An id without its data set: HumanEval/0 and humaneval-0 are 0, simple_3 of BFCL v3 is simple_python_3."""
    short = re.sub(r"^(?:humaneval|mbpp|bfcl|gsm8k)[-/](?:test-)?", "", id, flags=re.IGNORECASE)
    return re.sub(r"^simple_(?=\d)", "simple_python_", short)


def _read(record: Record, place: str) -> _Row:
    for has, read in _READERS:
        if has(record):
            row = read(record, place)
            return row._replace(texts=[unicode_text("response", text) for text in row.texts])
    raise LineError("", f"has the fields {', '.join(list(record)[:8])}; expected {' '.join(_FORMS.split())}")


def _sample(record: Record, place: str) -> _Row:
    key = "solution" if isinstance(record.get("solution"), str) else "completion"
    passed = record.get("passed")
    label = float(passed) if isinstance(passed, bool) else None
    return _Row(str(record["task_id"]), None, None, _texts(key, record.get(key)), label)


def _bfcl(record: Record, place: str) -> _Row:
    result = record["result"]
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    return _Row(str(record["id"]), None, None, [text], None)


def _zeroeval(record: Record, place: str) -> _Row:
    id = next((str(record[key]) for key in ("session_id", "id") if record.get(key) is not None), place)
    return _Row(id, _first(record, _QUERIES), _reference(record, _ANSWERS), _texts("output", record["output"]), None)


def _lm_eval(record: Record, place: str) -> _Row:
    doc, texts = record["doc"], record.get("resps", record.get("filtered_resps"))
    texts = texts[0] if isinstance(texts, list) and len(texts) == 1 and isinstance(texts[0], list) else texts
    label = next((float(record[key]) for key in _SCORES if isinstance(record.get(key), int | float)), None)
    id = str(doc.get("task_id", record.get("doc_id", place)))
    return _Row(id, _first(doc, _QUERIES), _reference(record, ("target",)), _texts("resps", texts), label)


_READERS: list[tuple[Callable[[Record], bool], Callable[[Record, str], _Row]]] = [
    (
        lambda record: isinstance(record.get("doc"), dict) and ("resps" in record or "filtered_resps" in record),
        _lm_eval,
    ),
    (lambda record: "task_id" in record and ("completion" in record or "solution" in record), _sample),
    (lambda record: "id" in record and "result" in record, _bfcl),
    (lambda record: "output" in record, _zeroeval),
]


def _texts(key: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    while isinstance(texts, list) and texts and all(isinstance(each, list) and len(each) == 1 for each in texts):
        texts = [each[0] for each in texts]
    if not isinstance(texts, list) or not texts or not all(isinstance(each, str) for each in texts):
        raise unexpected(key, value, "a response, or a list of responses")
    return texts


def _first(record: Record, keys: tuple[str, ...]) -> str | None:
    return next((record[key] for key in keys if isinstance(record.get(key), str)), None)


def _reference(record: Record, keys: tuple[str, ...]) -> str | None:
    """The answer; of a whole solution, the answer that it marks, as with #### in GSM8K."""
    value = next((record[key] for key in keys if record.get(key) is not None), None)
    if value is None or isinstance(value, dict | list):
        return None
    marked = statement(str(value))
    return marked.text if marked and marked.by != "words" else str(value)
