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

_FORMS = """human-eval's and EvalPlus's samples {task_id, completion or solution}, EvalPlus's results {eval}, BFCL's
{id, result}, ZeroEval's {output, answer}, or lm-eval's {doc, target, resps}"""
_QUERIES = ("question", "problem", "query", "prompt", "input", "Question", "Problem")
_ANSWERS = ("correct_answer", "answer", "reference", "label")
_SCORES = ("exact_match", "acc", "pass@1", "pass_at_1", "score")


class _Row(NamedTuple):
    """The responses of one row of a result file.

    Args:
        id: The id of its task.
        query: The query, if the row has it.
        reference: The reference, if the row has it.
        texts: The responses.
        label: The label that the tool gave to all of them.
        tasks: The source of the tasks, if the form of the file tells it.
    """

    id: str
    query: str | None
    reference: Any
    texts: list[str]
    label: float | None
    tasks: str | None = None


@SOURCES.register("results")
class Results:
    """Reads recorded responses from the result files of other tools, as these write them.

    The files of human-eval and EvalPlus (`task_id`, and `completion` or `solution`; `passed` is a label), EvalPlus's
    `eval_results.json` (whether a program passed the base and the plus tests is a label), BFCL (`id` and `result`),
    ZeroEval (`output`, with the answer) and lm-eval (`doc`, `target` and `resps`; its metric is a label; of
    multiple-choice tasks, the choice with the highest likelihood is the response). Rows of the same task become one
    task with several responses.

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
            for rows in RecordFile(file).parsed((), _read):
                for row in rows:
                    found.setdefault(row.id, []).append(row)
        return found

    @property
    def _name(self) -> Node | None:
        """The source of the tasks: as set, or by the first id if the rows have no reference."""
        if self.tasks is not None:
            return self.tasks
        id, rows = next(iter(self._rows.items()))
        if rows[0].tasks is not None:
            return rows[0].tasks
        return next((name for name, pattern in _BY_ID.items() if pattern.match(id) and rows[0].reference is None), None)

    @cached_property
    def _source(self) -> TaskSource | None:
        return None if self._name is None else SOURCES.build(self._name, path="features.source.tasks")

    @cached_property
    def _known(self) -> dict[str, Task] | None:
        return None if self._source is None else {_short(task.query_id): task for task in self._source.problems()}


_BY_ID = {
    "humaneval": re.compile(r"(?:HumanEval|Python)/\d+$"),
    "mbpp_plus": re.compile(r"Mbpp/\d+$"),
    "bfcl": re.compile(r"(?:simple|multiple|parallel)\w*_\d+$"),
}


def _short(id: str) -> str:
    """An id without its data set: HumanEval/0 and humaneval-0 are 0, simple_3 of BFCL v3 is simple_python_3."""
    short = re.sub(r"^(?:humaneval|python|mbpp|bfcl|gsm8k)[-/](?:test-)?", "", id, flags=re.IGNORECASE)
    return re.sub(r"^simple_(?=\d)", "simple_python_", short)


def _read(record: Record, place: str) -> list[_Row]:
    for has, read in _READERS:
        if has(record):
            rows = read(record, place)
            found = rows if isinstance(rows, list) else [rows]
            return [row._replace(texts=[unicode_text("response", text) for text in row.texts]) for row in found]
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


def _evalplus(record: Record, place: str) -> list[_Row]:
    """EvalPlus's results; a program is right if it passes the base tests and, where they ran, the plus tests."""
    rows = []
    for id, results in record["eval"].items():
        if not isinstance(results, list) or not all(isinstance(each, dict) for each in results):
            raise unexpected(f"eval.{id}", results, "a list of results with their `solution`")
        tasks = "humaneval_plus" if id.startswith("HumanEval/") else "mbpp_plus"
        for each in results:
            statuses = [each[key] for key in ("base_status", "plus_status") if each.get(key) is not None]
            label = float(all(status == "pass" for status in statuses)) if statuses else None
            rows.append(_Row(id, None, None, _texts(f"eval.{id}.solution", each.get("solution")), label, tasks))
    return rows


def _lm_eval(record: Record, place: str) -> _Row:
    doc, texts = record["doc"], record.get("resps", record.get("filtered_resps"))
    chosen = _choice(record)
    if chosen is not None:
        record, texts = {**record, "target": chosen[1]}, chosen[0]
    texts = texts[0] if isinstance(texts, list) and len(texts) == 1 and isinstance(texts[0], list) else texts
    label = next((float(record[key]) for key in _SCORES if isinstance(record.get(key), int | float)), None)
    id = str(doc.get("task_id", record.get("doc_id", place)))
    return _Row(id, _first(doc, _QUERIES), _reference(record, ("target",)), _texts("resps", texts), label)


_READERS: list[tuple[Callable[[Record], bool], Callable[[Record, str], _Row | list[_Row]]]] = [
    (lambda record: isinstance(record.get("eval"), dict), _evalplus),
    (
        lambda record: isinstance(record.get("doc"), dict) and ("resps" in record or "filtered_resps" in record),
        _lm_eval,
    ),
    (lambda record: "task_id" in record and ("completion" in record or "solution" in record), _sample),
    (lambda record: "id" in record and "result" in record, _bfcl),
    (lambda record: "output" in record, _zeroeval),
]


def _choice(record: Record) -> tuple[str, str] | None:
    """The choice that a model takes for the likeliest, and the right one; None if the task is not of this kind."""
    arguments, responses = record.get("arguments"), record.get("resps")
    given = list(arguments.values()) if isinstance(arguments, dict) else arguments
    if not (isinstance(given, list) and isinstance(responses, list) and len(given) == len(responses) > 1):
        return None
    try:
        likelihoods = [float(response[0][0]) for response in responses]
        pairs = [[*each.values()] if isinstance(each, dict) else each for each in given]
        choices = [str(continuation).strip() for _, continuation in pairs]
    except (ValueError, TypeError, IndexError, KeyError):
        return None
    target = str(record.get("target")).strip()
    right = (
        choices[int(target)] if target not in choices and target.isdigit() and int(target) < len(choices) else target
    )
    return choices[likelihoods.index(max(likelihoods))], right


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
